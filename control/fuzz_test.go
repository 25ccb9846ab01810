package control

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// Nothing that comes as a request gets past the gate without a seal, or ends
// the service.
func FuzzRequest(f *testing.F) {
	out := newFuzzed(f)
	good := subjects.Header{}
	out.ada.SealRequest("tsunami.api.ada.apply", good, []byte("{}"), out.now)
	f.Add("apply", "ada", good.Get(subjects.HeaderIdentity), good.Get(subjects.HeaderSeal), good.Get(subjects.HeaderTime), "another nonce", []byte("{}"))
	f.Add("status", "ada", "", "", "", "", []byte(""))
	f.Add("why", "x", "a.b.c", "U AAAA", "2026-01-01T00:00:00Z", strings.Repeat("n", 100), []byte("{"))
	f.Fuzz(func(t *testing.T, verb, actor, identity, seal, at, nonce string, body []byte) {
		h := subjects.Header{
			subjects.HeaderIdentity: {identity}, subjects.HeaderSeal: {seal}, subjects.HeaderTime: {at}, subjects.HeaderNonce: {nonce},
		}
		g := &gate{authority: func() *access.Authority { return out.authority }, began: out.now.Add(-time.Minute)}
		who, err := g.admit(Verb(verb), rollout.ID(actor), subjects.API+actor+"."+verb, h, body, out.now)
		if reading := subjects.MayAsk(subjects.RoleViewer, verb); reading != (err == nil) {
			// The nonce that ada's seal is over isn't among what is tried.
			t.Errorf("%s as %s: %v by %+v", verb, actor, err, who)
		}
		if err != nil && (err.Error() == "" || len(err.Error()) > 4096) {
			t.Errorf("the refusal is %q", err)
		}
		for _, v := range []any{new(ApplyRequest), new(StartRequest), new(PlanRequest), new(PinRequest), new(HostListRequest), new(WhyRequest)} {
			if err := (Request{Body: body}).Decode(v); err != nil && AsError(err).Code != Usage {
				t.Errorf("%v", err)
			}
		}
	})
}

type fuzzed struct {
	ada       *access.Credentials
	authority *access.Authority
	now       time.Time
}

func newFuzzed(f *testing.F) fuzzed {
	f.Helper()
	dir := f.TempDir() + "/access"
	store, err := access.Init(dir)
	if err != nil {
		f.Fatal(err)
	}
	out, err := store.Issue(access.Wanted{Name: "ada", Role: subjects.RoleOperator})
	if err != nil {
		f.Fatal(err)
	}
	ada, err := access.ParseCredentials(out[0].Credentials)
	if err != nil {
		f.Fatal(err)
	}
	server, err := access.LoadServer(dir)
	if err != nil {
		f.Fatal(err)
	}
	a, err := server.Authority()
	if err != nil {
		f.Fatal(err)
	}
	return fuzzed{ada, a, time.Now()}
}

// An answer of a service that isn't ours, or an older one, is an error in
// words.
func FuzzErrorAnswer(f *testing.F) {
	f.Add("refused", []byte(`{"code":"refused","message":"not now"}`))
	f.Add("", []byte(`{"code":1}`))
	f.Add("line\nline", []byte(`{"code":"usage","faults":[{"document":-1,"field":"x","problem":"y"}]}`))
	f.Fuzz(func(t *testing.T, header string, body []byte) {
		err := remote(&nats.Msg{Header: nats.Header{micro.ErrorHeader: {header}}, Data: body})
		e := AsError(err)
		if e.Code == "" {
			t.Errorf("%#v has no code", err)
		}
		_ = e.Error()
	})
}

// Whatever is in the log, each record of it is shown and none ends the reading.
func FuzzAuditRecord(f *testing.F) {
	_, k := newSigner(f)
	f.Add("desired.h1", []byte(`{"v":"1"}`), "ada", "1", `{"code":"ramp"}`, "", "KV_tsunami 7", "U x")
	f.Add("stop", []byte("incident"), "", "", "", "5", "KV_tsunami", "")
	f.Add("rollout.r1", []byte(`{"spec":{}}`), "\xff", "0", "{", "", "", "")
	f.Add("join.x", []byte(`{}`), "", "", "", "", "a 18446744073709551616", "")
	f.Add("api.x", []byte{}, "", "-1", "null", "x", "", "")
	f.Fuzz(func(t *testing.T, key string, body []byte, actor, generation, reason, acknowledges, source, seal string) {
		h := subjects.Header{"Nats-Stream-Source": {source}}
		for name, v := range map[string]string{
			subjects.HeaderActor: actor, subjects.HeaderGeneration: generation, subjects.HeaderReason: reason,
			subjects.HeaderAcknowledges: acknowledges, subjects.HeaderSeal: seal, subjects.HeaderFollows: generation,
		} {
			if v != "" {
				h[name] = []string{v}
			}
		}
		m := bus.Msg{Subject: "tsunami.audit." + key, Header: h, Data: body, Sequence: 1}
		records := auditRecords(m)
		if len(records) == 0 {
			t.Fatal("no record")
		}
		for _, r := range records {
			unproven(&r, m)
			if _, err := json.Marshal(r); err != nil {
				t.Errorf("%+v: %v", r, err)
			}
			if len(r.Reason) > 8192 || !utf8.ValidString(r.Actor) {
				t.Errorf("%+v", r)
			}
		}
		v := verified(VerifyOptions{Trust: k}, []bus.Msg{m}, []bus.Msg{m, m})
		if v.Records != 2 || v.FindingsTotal == 0 {
			t.Errorf("%+v", v) // two of the same
		}
	})
}
