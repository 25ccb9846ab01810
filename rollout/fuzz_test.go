package rollout

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func FuzzValue(f *testing.F) {
	for _, s := range []string{`"1.10"`, `1.0`, `9007199254740993`, `1e400`, `-0`, `true`, `null`, `"\ud800"`, "\"\xff\"", `[1]`, `"` + strings.Repeat("x", 1025) + `"`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var v Value
		if v.UnmarshalJSON(in) != nil {
			if !v.IsZero() {
				t.Fatalf("refused, and left %#v behind", v)
			}
			return
		}
		b, err := json.Marshal(v)
		var back Value
		if err != nil || json.Unmarshal(b, &back) != nil || back != v || !v.Matches(back) {
			t.Fatalf("%s came back as %#v", b, back)
		}
		if w, err := ParseValue(v.Type(), v.Text()); err != nil || w != v {
			t.Fatalf("%#v as text came back as %#v, %v", v, w, err)
		}
		if !utf8.ValidString(v.Text()) || len(v.Text()) > maxString {
			t.Fatalf("%q was let through", v.Text())
		}
	})
}

func FuzzPercent(f *testing.F) {
	for _, s := range []string{`30`, `"30%"`, `0`, `"NaN"`, `1e400`, `"0x1p3"`, `null`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var p Percent
		if json.Unmarshal(in, &p) != nil {
			return
		}
		if !(p > 0 && p <= 100) {
			t.Fatalf("%s is read as %v", in, float64(p))
		}
		var back Percent
		if b, err := json.Marshal(p); err != nil || json.Unmarshal(b, &back) != nil || back != p {
			t.Fatalf("%v came back as %v", p, back)
		}
		for _, n := range []int{0, 1, 7, 1_000_000} {
			if got := target(n, p, nil); got < 0 || got > n {
				t.Fatalf("%v of %d is %d", p, n, got)
			}
		}
	})
}

func FuzzDuration(f *testing.F) {
	for _, s := range []string{"2w", "1h30m", "0", "", "1.5h", "-1s", "9223372036854ms", "106751d23h47m16s854ms", "99999999999w"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		d, err := ParseDuration(in)
		if err != nil {
			return
		}
		if d < 0 {
			t.Fatalf("%q is %d", in, d)
		}
		if back, err := ParseDuration(d.String()); err != nil || back != d {
			t.Fatalf("%q came back as %v, %v", in, back, err)
		}
	})
}

func FuzzNames(f *testing.F) {
	for _, s := range append(hostile, "web1.lon2", "docker_version", "docker-1-12-3") {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		_, host := ParseHost(in)
		_, name := ParseName(in)
		_, id := ParseID("rollout", in)
		_, word := ParseWord("role", in)
		if host != nil && name != nil && id != nil && word != nil {
			return
		}
		// Whatever passes is safe as a subject token or, for hosts and words, as tokens.
		if strings.ContainsAny(in, " \t\r\n*>/\\$\x00") || strings.ToLower(in) != in || in == "" || len(in) > 253 {
			t.Fatalf("%q is allowed", in)
		}
		if (name == nil || id == nil) && strings.Contains(in, ".") || host == nil && (strings.Contains(in, "..") || in[0] == '.' || in[len(in)-1] == '.') {
			t.Fatalf("%q isn't the tokens that it seems to be", in)
		}
		if host == nil && len(in) <= 63 && !strings.Contains(in, ".") && id != nil {
			t.Fatalf("%q is a host and not an id", in)
		}
	})
}

func FuzzWhere(f *testing.F) {
	for _, s := range []string{``, `role != "database"`, `labels.zone in ["a"]`, `true ? 1 : "x"`, `$env`, `all(1..9, true)`, `int(role) > 1`, `host matches "("`, `let x = 1; x > role`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, source string) {
		w, err := ParseWhere(source)
		if err != nil {
			return
		}
		a, errA := w.Selects("web1.lon2", "web", map[Word]Word{"zone": "a"})
		b, errB := w.Selects("web1.lon2", "web", map[Word]Word{"zone": "a"})
		if a != b || (errA == nil) != (errB == nil) || a && errA != nil {
			t.Fatalf("%v %v, then %v %v", a, errA, b, errB)
		}
	})
}

func FuzzSpec(f *testing.F) {
	f.Add([]byte(`{"name":"r","variable":"version","to":"2","ramp":{"over":"2w","percent":"30%"},"limits":[{"where":"role == \"web\"","atLeast":1,"atMost":3}],"spread":["zone"]}`))
	f.Add([]byte(`{"name":"r","variable":"version","to":1e400}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		var s Spec
		if json.Unmarshal(in, &s) != nil || s.Validate() != nil {
			return
		}
		b, err := json.Marshal(s)
		var back Spec
		if err != nil || json.Unmarshal(b, &back) != nil {
			t.Fatalf("%s doesn't come back: %v", b, err)
		}
		if again, err := json.Marshal(back); err != nil || string(again) != string(b) {
			t.Fatalf("%s came back as %s", b, again)
		}
		if _, err := newCohort(nil, s.Name, &Record{Spec: s}); err != nil {
			t.Fatalf("a valid document can't be taken: %v", err)
		}
	})
}
