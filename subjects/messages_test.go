package subjects

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/tsunami-rollouts/tsunami/rollout"
)

func value(t interface{ Fatal(...any) }, s string) rollout.Value {
	v, err := rollout.StringValue(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

var changes = rapid.Custom(func(t *rapid.T) *Change {
	text := rapid.StringMatching(`[ -~åäö漢]{0,40}`)
	at := time.Unix(0, rapid.Int64Range(0, 1<<60).Draw(t, "time")).UTC()
	c := &Change{
		Host:     rollout.Host(rapid.StringMatching(`[a-z0-9]{1,10}(\.[a-z0-9]{1,5}){0,3}`).Draw(t, "host")),
		Rollout:  rollout.ID(rapid.StringMatching(`([a-z0-9]{1,10})?`).Draw(t, "rollout")),
		Variable: rollout.Name(rapid.StringMatching(`([a-z][a-z0-9_]{0,10})?`).Draw(t, "variable")),
		Actor:    rollout.ID(rapid.StringMatching(`[a-z0-9]{1,10}`).Draw(t, "actor")),
		Reason:   rollout.Reason{Code: rollout.ByRamp, Role: "web", Position: 3, Target: 9, Share: rapid.Float64Range(0, 1).Draw(t, "share"), Detail: text.Draw(t, "detail")},
		Time:     at,
	}
	if rapid.Bool().Draw(t, "has previous") {
		c.Previous = value(t, text.Draw(t, "previous"))
	}
	c.Desired.Generation = rapid.Uint64Range(1, 1<<62).Draw(t, "generation")
	if rapid.IntRange(0, 9).Draw(t, "decommissioned") == 0 {
		c.Decommissioned = true
		return c
	}
	c.Desired.Values, c.Desired.Told = rollout.Document{}, map[rollout.Name]rollout.Told{}
	for range rapid.IntRange(0, 4).Draw(t, "values") {
		name := rollout.Name(rapid.StringMatching(`[a-z][a-z0-9_]{0,10}`).Draw(t, "name"))
		told := rollout.Told{
			Rollout: c.Rollout, Generation: c.Desired.Generation, Time: at, Checks: []rollout.ID{"docker"}, File: rapid.Bool().Draw(t, "file"),
			Released: rapid.Bool().Draw(t, "released"), Pin: rapid.Bool().Draw(t, "pin"),
		}
		if rapid.Bool().Draw(t, "had") {
			told.Previous = value(t, text.Draw(t, "previous"))
		}
		c.Desired.Told[name] = told
		if rapid.IntRange(0, 4).Draw(t, "removed") > 0 { // else a rollout has taken it out
			c.Desired.Values[name] = value(t, text.Draw(t, "value"))
		}
	}
	return c
})

func TestChangeRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := changes.Draw(t, "change")
		h, body, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		for k, vs := range h {
			for _, v := range vs {
				if strings.ContainsAny(v, "\r\n") {
					t.Fatalf("header %s has a line break: %q", k, v)
				}
			}
		}
		if !c.Decommissioned {
			var flat map[string]any
			if json.Unmarshal(body, &flat) != nil || len(flat) != len(c.Desired.Values) {
				t.Fatalf("the body isn't the flat document: %s", body)
			}
		}
		got, err := DecodeChange(c.Host, h, body)
		if err != nil || !reflect.DeepEqual(got, c) {
			t.Fatalf("came back as %+v, %v: want %+v", got, err, c)
		}
	})
}

// good is a change as it stands on the wire.
func good(t testing.TB) (Header, []byte) {
	at := time.Date(2026, 12, 1, 9, 0, 0, 0, time.UTC)
	c := Change{
		Host: "web1", Rollout: "r", Variable: "version", Actor: "ann", Reason: rollout.Reason{Code: rollout.ByRamp}, Time: at,
		Desired: rollout.Desired{Generation: 7, Values: rollout.Document{"version": value(t, "2")}, Told: map[rollout.Name]rollout.Told{"version": {Rollout: "r", Generation: 7, Time: at}}},
	}
	h, body, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return h, body
}

func TestForeignDesiredStateIsRefused(t *testing.T) {
	for name, spoil := range map[string]func(h Header, body []byte) []byte{
		"put by hand":           func(h Header, b []byte) []byte { clear(h); return b },
		"deleted by hand":       func(h Header, b []byte) []byte { clear(h); h["KV-Operation"] = []string{"DEL"}; return nil },
		"purged by hand":        func(h Header, b []byte) []byte { clear(h); h["KV-Operation"] = []string{"PURGE"}; return nil },
		"generation 0":          func(h Header, b []byte) []byte { h[HeaderGeneration] = []string{"0"}; return b },
		"generation -1":         func(h Header, b []byte) []byte { h[HeaderGeneration] = []string{"-1"}; return b },
		"generation 2^63":       func(h Header, b []byte) []byte { h[HeaderGeneration] = []string{"9223372036854775808"}; return b },
		"no time":               func(h Header, b []byte) []byte { delete(h, HeaderTime); return b },
		"no reason":             func(h Header, b []byte) []byte { delete(h, HeaderReason); return b },
		"a reason that isn't":   func(h Header, b []byte) []byte { h[HeaderReason] = []string{"because"}; return b },
		"an actor that isn't":   func(h Header, b []byte) []byte { h[HeaderActor] = []string{"a.b"}; return b },
		"a variable that isn't": func(h Header, b []byte) []byte { h[HeaderVariable] = []string{">"}; return b },
		"a previous list":       func(h Header, b []byte) []byte { h[HeaderPrevious] = []string{"[1]"}; return b },
		"no told":               func(h Header, b []byte) []byte { delete(h, HeaderTold); return b },
		"an empty body":         func(Header, []byte) []byte { return nil },
		"a list":                func(Header, []byte) []byte { return []byte(`["1"]`) },
		"a nested object":       func(Header, []byte) []byte { return []byte(`{"version":{"a":1}}`) },
		"a null":                func(Header, []byte) []byte { return []byte(`{"version":null}`) },
		"a hostile variable":    func(Header, []byte) []byte { return []byte(`{"../x":"1"}`) },
		"two documents":         func(_ Header, b []byte) []byte { return append(b, b...) },
		"a megabyte":            func(_ Header, b []byte) []byte { return append(b, bytes.Repeat([]byte(" "), MaxBody)...) },
	} {
		h, body := good(t)
		c, err := DecodeChange("web1", h, spoil(h, body))
		if !errors.Is(err, ErrForeign) || c != nil {
			t.Errorf("%s: %+v, %v", name, c, err)
		} else if !strings.Contains(err.Error(), "web1") || len(err.Error()) > 400 {
			t.Errorf("%s: %v", name, err)
		}
	}
	h, body := good(t)
	if c, err := DecodeChange("web1", h, body); err != nil || c.Desired.Generation != 7 {
		t.Errorf("the good one: %+v, %v", c, err)
	}
}

func TestDecodeAbort(t *testing.T) {
	at := time.Date(2026, 12, 1, 9, 0, 0, 0, time.UTC)
	whole, err := Encode(Abort{Why: "users see errors", Actor: "ann", Time: at, Evidence: json.RawMessage(`{"p":0.01}`)})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, body, why, actor string
		header                 Header
	}{
		{name: "ours", body: string(whole), why: "users see errors", actor: "ann"},
		{name: "plain text", body: "users see errors", why: "users see errors"},
		{name: "with the operator's header", body: "x", header: Header{HeaderActor: {"bob"}}, why: "x", actor: "bob"},
		{name: "a JSON string", body: `"users"`, why: `"users"`},
		{name: "other JSON", body: `{"reason":"users"}`, why: `{"reason":"users"}`},
		{name: "an unknown field", body: `{"why":"users","urgent":true}`, why: `{"why":"users","urgent":true}`},
		{name: "cut off", body: `{"why":"use`, why: `{"why":"use`},
		{name: "JSON without a why", body: `{"actor":"ann"}`, why: `{"actor":"ann"}`},
		{name: "empty", body: "", why: "(no reason given)"},
		{name: "blank", body: " \n\t\x00", why: "(no reason given)"},
		{name: "not text", body: "\xff\xfe", why: "(no reason given)"},
		{name: "partly text", body: "\xffusers", why: "users"},
		{name: "text after blanks", body: strings.Repeat(" ", 3000) + "users", why: "users"},
		{name: "text after rubbish", body: strings.Repeat("\xff", 3000) + "users", why: "users"},
		{name: "control characters", body: "a\nb\x1b[31m", why: "a b [31m"},
		{name: "control characters in JSON", body: `{"why":"a\nb\u001b[31m"}`, why: "a b [31m"},
		{name: "a blank why in JSON", body: `{"why":"\n"}`, why: `{"why":"\n"}`},
		{name: "long", body: strings.Repeat("å", 3000), why: strings.Repeat("å", 512)},
		{name: "deleted", header: Header{"KV-Operation": {"DEL"}}, why: "the key was deleted by hand, which isn't a resume"},
		{name: "purged", header: Header{"KV-Operation": {"PURGE"}}, why: "the key was deleted by hand, which isn't a resume"},
	} {
		a := DecodeAbort(c.header, []byte(c.body), 17)
		if a.Why != c.why || a.Actor != c.actor || a.Sequence != 17 || a.Released {
			t.Errorf("%s: %+v, want why %q and actor %q", c.name, a, c.why, c.actor)
		}
	}
	if a := DecodeAbort(Header{HeaderAcknowledges: {"16"}}, []byte("all is well"), 17); !a.Released {
		t.Errorf("a release: %+v", a)
	}
}

func TestNames(t *testing.T) {
	for _, k := range []Kind{KindDesired, KindRollout, KindProgress, KindAbort, KindVariable, KindPin} {
		for _, subject := range []string{k.Subject("web1.lon2"), AuditSubject(k, "web1.lon2")} {
			if kind, name, err := ParseKey(subject); err != nil || kind != k || name != "web1.lon2" {
				t.Errorf("%s: %q %q %v", subject, kind, name, err)
			}
		}
	}
	for _, k := range []Kind{KindStop, KindLeader, KindGuard, KindEpoch} {
		if kind, name, err := ParseKey(k.Subject("")); err != nil || kind != k || name != "" || k.Pattern() != k.Subject("") {
			t.Errorf("%s: %q %q %v", k, kind, name, err)
		}
	}
	for _, s := range []string{"", "$KV.tsunami", "$KV.tsunami.", "$KV.tsunami_hosts.web1", "tsunami.desired.web1", "$KV.other.desired.web1"} {
		if kind, name, err := ParseKey(s); err == nil {
			t.Errorf("%q is the key %q %q", s, kind, name)
		}
	}
	for _, s := range []string{HostSubject("web1.lon2"), Alive("web1.lon2"), Health("web1.lon2"), KindDesired.Subject("web1.lon2"), KindDesired.Echo("web1.lon2")} {
		if h, err := HostOf(s); err != nil || h != "web1.lon2" {
			t.Errorf("%s: %q, %v", s, h, err)
		}
	}
	for _, s := range []string{"", "tsunami.alive.", "tsunami.alive.>", "tsunami.alive.*", "tsunami.alive.A", "tsunami.alive.a..b", "tsunami.alivex.a", "tsunami.rollout.a", "$KV.tsunami.progress.a", "x.tsunami.alive.a", "tsunami.alive.a\n"} {
		if h, err := HostOf(s); err == nil {
			t.Errorf("%q names the host %q", s, h)
		}
	}
}

func TestDecodeIsStrict(t *testing.T) {
	for _, body := range []string{``, `{`, `null x`, `{"step":"a"}{"step":"b"}`, `{"nonsense":1}`, `[]`, `"a"`, strings.Repeat("[", 20000)} {
		if p, err := Decode[rollout.Progress]([]byte(body)); err == nil {
			t.Errorf("%.30q is read as %+v", body, p)
		}
	}
}

func FuzzDecodeChange(f *testing.F) {
	h, body := good(f)
	f.Add(body, h.Get(HeaderGeneration), h.Get(HeaderTime), h.Get(HeaderReason), h.Get(HeaderTold), h.Get(HeaderPrevious), "ann", "")
	f.Add([]byte(`{"a":null}`), "0", "", "{", "null", "[1]", ">", "DEL")
	f.Fuzz(func(t *testing.T, body []byte, generation, at, reason, told, previous, actor, operation string) {
		h := Header{HeaderGeneration: {generation}, HeaderTime: {at}, HeaderReason: {reason}, HeaderTold: {told}, HeaderPrevious: {previous}, HeaderActor: {actor}, "KV-Operation": {operation}}
		c, err := DecodeChange("web1", h, body)
		if err != nil {
			if !errors.Is(err, ErrForeign) {
				t.Fatalf("not an ErrForeign: %v", err)
			}
			return
		}
		again, body2, err := c.Encode()
		if err != nil {
			return // a year beyond 9999
		}
		back, err := DecodeChange("web1", again, body2)
		if err != nil || back.Desired.Generation != c.Desired.Generation || len(back.Desired.Values) != len(c.Desired.Values) {
			t.Fatalf("came back as %+v, %v", back, err)
		}
	})
}

func FuzzDecodeAbort(f *testing.F) {
	for _, s := range []string{"users see errors", `{"why":"x"}`, `{"why":""}`, "", "\xff", "\x00\n", strings.Repeat(" ", 2000) + "x"} {
		f.Add([]byte(s), "ann", "")
	}
	f.Add([]byte(nil), "", "DEL")
	f.Fuzz(func(t *testing.T, body []byte, actor, operation string) {
		a := DecodeAbort(Header{HeaderActor: {actor}, "KV-Operation": {operation}}, body, 5)
		if a.Why == "" || a.Sequence != 5 || !utf8.ValidString(a.Why) || len(a.Why) > maxWhy || strings.ContainsAny(a.Why, "\n\r\x00\x1b") {
			t.Fatalf("%+v", a)
		}
		// A plain text's why is never lost.
		plain := strings.TrimSpace(string(body))
		if operation == "" && len(plain) > 0 && len(plain) <= maxWhy && plain[0] != '{' && !strings.ContainsFunc(plain, func(r rune) bool { return r < 0x20 || r >= 0x7f && r < 0xa0 || r == utf8.RuneError }) && a.Why != plain {
			t.Fatalf("%q became %q", plain, a.Why)
		}
	})
}

// fuzzRecord decodes as T whatever comes, and wants what was decoded to come
// back as it is.
func fuzzRecord[T any](t *testing.T, body []byte) {
	v, err := Decode[T](body)
	if err != nil {
		return
	}
	b, err := Encode(v)
	if err != nil {
		return // such as a year beyond 9999, which a record can't have
	}
	back, err := Decode[T](b)
	if err != nil && bytes.Contains(b, []byte(`:""`)) {
		return // it lacks a name that it needs
	}
	if err != nil {
		t.Fatalf("%T: %s can't be read again: %v", v, b, err)
	}
	if again, err := Encode(back); err != nil || !bytes.Equal(again, b) {
		t.Fatalf("%T: %s came back as %s", v, b, again)
	}
}

func FuzzDecodeRecords(f *testing.F) {
	for _, s := range []string{
		`{}`, `null`, `{"name":"v","type":"string","allowed":["a"],"initial":"a","value":"a"}`,
		`{"spec":{"name":"r","variable":"v","to":"2","ramp":{"over":"2w"}},"state":"running","by":"ann","author":"ann","created":"2026-12-01T09:00:00Z","changed":"2026-12-01T09:00:00Z","salt":"s","theta":{"web":0.5}}`,
		`{"step":"a","elapsed":1,"led":2,"running":true,"caughtUp":-1,"target":3,"told":1,"confirmed":1,"failed":0,"hold":{"code":"stop"}}`,
		`{"role":"web","labels":{"zone":"a"},"actual":{"v":"1"},"enact":{"v":{"status":"enacted"}},"checks":{"docker":{"status":"passing"}},"generation":3,"boot":"b"}`,
		`{"holder":"h","name":"n","since":"2026-12-01T09:00:00Z","renewed":"2026-12-01T09:00:00Z","led":5,"step":"s","seed":"x"}`,
		`{"kind":"check","boot":"b","sequence":1,"time":"2026-12-01T09:00:00Z","generation":3,"status":"failing"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		fuzzRecord[rollout.Record](t, body)
		fuzzRecord[rollout.Progress](t, body)
		fuzzRecord[rollout.Variable](t, body)
		fuzzRecord[rollout.Report](t, body)
		fuzzRecord[Leader](t, body)
		fuzzRecord[HealthEvent](t, body)
	})
}
