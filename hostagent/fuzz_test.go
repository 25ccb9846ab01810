package hostagent

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// FuzzOffer gives an agent whatever a broker can: a subject, a header, a body.
// Without keys it must not panic, nor take a lower generation; with keys it must
// take nothing, since the fuzzer has none.
func FuzzOffer(f *testing.F) {
	own := subjects.KindDesired.Subject("h1")
	add := func(subject string, h subjects.Header, body []byte) {
		header, err := json.Marshal(h)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(subject, header, body)
	}
	h, body := document(f, 7)
	add(own, h, body)
	newSigner(f).Seal(own, h, body)
	add(own, h, body)
	add(subjects.KindDesired.Subject("h2"), h, body)
	add(own, subjects.Header{"KV-Operation": {"DEL"}}, nil)
	add(own, subjects.Header{subjects.HeaderGeneration: {"18446744073709551615"}}, []byte(`{"a":null}`))
	add(own, subjects.Header{subjects.HeaderSeal: {"", "x y z"}}, []byte("null"))

	plain, verifying := bare(f, nil), bare(f, mustKeyring(f, newSigner(f)))
	f.Fuzz(func(t *testing.T, subject string, header, body []byte) {
		var h subjects.Header
		if json.Unmarshal(header, &h) != nil {
			return
		}
		before := plain.state.Generation
		plain.offer(subject, own, h, body)
		if plain.state.Generation < before {
			t.Errorf("from generation %d to %d", before, plain.state.Generation)
		}
		verifying.offer(subject, own, h, body)
		if verifying.state.Generation != 0 || verifying.pending != nil {
			t.Errorf("a record without a seal of a pinned key was taken: %q %s", h, body)
		}
	})
}

// FuzzEpoch gives an agent whatever a broker can say of the epoch.
func FuzzEpoch(f *testing.F) {
	signer := newSigner(f)
	add := func(s *access.Signer, body string) {
		h := subjects.Header{}
		seal(s, subjects.KindEpoch.Subject(""), h, []byte(body))
		f.Add(h.Get(subjects.HeaderSeal), []byte(body))
	}
	add(newSigner(f), `{"time":"2026-11-24T12:00:00Z"}`)
	add(nil, `{"time":"0001-01-01T00:00:00Z"}`)
	add(signer, `{}`)
	add(signer, `{"time":"9999-12-31T23:59:59Z"}`)
	a := bare(f, mustKeyring(f, signer))
	a.epoch = time.Time{}
	f.Fuzz(func(t *testing.T, seal string, body []byte) {
		a.learnEpoch(epochMsg(subjects.Header{subjects.HeaderSeal: {seal}}, body), time.Now())
		if a.epochFault == nil || !a.epoch.IsZero() {
			t.Errorf("an epoch that no signer made counts: %q %s", seal, body)
		}
	})
}
