package hostagent

import (
	"log/slog"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

func mustKeyring(t testing.TB, s *access.Signer) *access.Keyring {
	t.Helper()
	k, err := access.ParseKeyring([]byte(s.Public()))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func epochMsg(h subjects.Header, body []byte) *bus.Msg {
	return &bus.Msg{Subject: subjects.KindEpoch.Subject(""), Header: h, Data: body}
}

// bare is an agent without a connection: what comes in, and nothing else. It
// writes into a directory of its own.
func bare(t testing.TB, k *access.Keyring) *agent {
	t.Helper()
	a := newAgent(Options{Config: Config{Host: "h1", Role: "web", State: t.TempDir()}, Keyring: k}.withDefaults())
	a.Logger = slog.New(slog.DiscardHandler)
	a.load()
	a.epoch = time.Now()
	return a
}

// BenchmarkTake is an agent's apply of one new document, its disk included, with
// and without a seal to verify.
func BenchmarkTake(b *testing.B) {
	signer := newSigner(b)
	own := subjects.KindDesired.Subject("h1")
	for name, k := range map[string]*access.Keyring{"unsealed": nil, "sealed": mustKeyring(b, signer)} {
		b.Run(name, func(b *testing.B) {
			a := bare(b, k)
			var n uint64
			for b.Loop() {
				n++
				h, body := document(b, n)
				if k != nil {
					b.StopTimer()
					signer.Seal(own, h, body)
					b.StartTimer()
				}
				if a.offer(own, own, h, body); a.state.Generation != n {
					b.Fatalf("generation %d wasn't taken", n)
				}
			}
		})
	}
}

// BenchmarkVerify is what a seal adds to it.
func BenchmarkVerify(b *testing.B) {
	signer := newSigner(b)
	a := bare(b, mustKeyring(b, signer))
	h, body := document(b, 1)
	signer.Seal(subjects.KindDesired.Subject("h1"), h, body)
	for b.Loop() {
		if err := a.sealed(h, body); err != nil {
			b.Fatal(err)
		}
	}
}

// document is one with twenty variables.
func document(t testing.TB, generation uint64) (subjects.Header, []byte) {
	t.Helper()
	values := rollout.Document{}
	for i := range 20 {
		values[rollout.Name("variable_"+string(rune('a'+i)))] = str("1.12.3-0~debian-stretch")
	}
	c := change(generation, "docker-1-12-3", values, nil)
	h, body, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return h, body
}
