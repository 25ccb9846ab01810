package rollout

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestPercent(t *testing.T) {
	for in, want := range map[string]Percent{`30`: 30, `"30"`: 30, `"30%"`: 30, `"30 %"`: 30, `30.5`: 30.5, `"0.1%"`: 0.1, `100`: 100, `1e1`: 10} {
		var p Percent
		if err := json.Unmarshal([]byte(in), &p); err != nil || p != want {
			t.Errorf("%s: %v, %v", in, p, err)
		}
	}
	for _, in := range []string{`0`, `-1`, `100.1`, `"101%"`, `"0%"`, `"NaN"`, `"Inf"`, `"%"`, `""`, `"30%%"`, `"3O"`, `null`, `true`, `[30]`, `1e400`} {
		var p Percent
		if err := json.Unmarshal([]byte(in), &p); err == nil {
			t.Errorf("%s is read as %v", in, p)
		} else if !strings.Contains(err.Error(), "percent") {
			t.Errorf("%s: the error doesn't say what is wanted: %v", in, err)
		}
	}
	if s := Percent(30.5).String(); s != "30.5%" {
		t.Errorf("%q", s)
	}
}

func TestParseDuration(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"0": 0, "0s": 0, "2w": 336 * time.Hour, "36h": 36 * time.Hour, "90s": 90 * time.Second, "1h30m": 90 * time.Minute, "1w3d12h": 252 * time.Hour,
		"250ms": 250 * time.Millisecond, "1m1ms": time.Minute + time.Millisecond, "15250w": 15250 * 168 * time.Hour,
	} {
		if d, err := ParseDuration(in); err != nil || time.Duration(d) != want {
			t.Errorf("%s: %v, %v", in, time.Duration(d), err)
		}
	}
	for _, in := range []string{"", " ", "1", "h", "1.5h", "-1h", "+1h", "1h 30m", "30m1h", "1h1h", "1y", "1ns", "1us", "1H", "1h\n", "٣h", "99999999999999999999h", "15251w", "15250w9999999h", strings.Repeat("9", 300) + "s"} {
		d, err := ParseDuration(in)
		if err == nil {
			t.Errorf("%q is read as %v", in, time.Duration(d))
		} else if len(err.Error()) > 300 {
			t.Errorf("%.20q: a long error: %v", in, err)
		}
	}
}

func TestDurationRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := Duration(rapid.Int64Range(0, math.MaxInt64/int64(time.Millisecond)).Draw(t, "ms") * int64(time.Millisecond))
		b, err := json.Marshal(d)
		var back Duration
		if err != nil || json.Unmarshal(b, &back) != nil || back != d {
			t.Fatalf("%s came back as %v, %v", b, back, err)
		}
	})
}

func TestSpecValidate(t *testing.T) {
	good := `{"name":"r","variable":"version","to":"2","ramp":{"over":"2w"}}`
	var s Spec
	if err := json.Unmarshal([]byte(good), &s); err != nil || s.Validate() != nil {
		t.Fatalf("%v, %v", err, s.Validate())
	}
	for _, c := range []struct {
		field string
		set   func(*Spec)
	}{
		{"name", func(s *Spec) { s.Name = "" }},
		{"name", func(s *Spec) { s.Name = "a.b" }},
		{"variable", func(s *Spec) { s.Variable = ">" }},
		{"to", func(s *Spec) { s.To = Value{} }},
		{"where", func(s *Spec) { s.Where = "nonsense(" }},
		{"ramp.shape", func(s *Spec) { s.Ramp.Shape = "wobbly" }},
		{"ramp.over", func(s *Spec) { s.Ramp.Over = 0 }},
		{"ramp.over", func(s *Spec) { s.Ramp.Over = -1 }},
		{"ramp.over", func(s *Spec) { s.Ramp.Over = MaxOver + 1 }},
		{"limits", func(s *Spec) { s.Limits = make([]Limit, 101) }},
		{"limits[0].where", func(s *Spec) { s.Limits = []Limit{{Where: "role"}} }},
		{"limits[0].atLeast", func(s *Spec) { s.Limits = []Limit{{AtLeast: -1}} }},
		{"limits[0].atMost", func(s *Spec) { s.Limits = []Limit{{AtMost: new(-1)}} }},
		{"limits[1].atLeast", func(s *Spec) { s.Limits = []Limit{{}, {AtLeast: 3, AtMost: new(2)}} }},
		{"settle", func(s *Spec) { s.Settle = -1 }},
		{"spread", func(s *Spec) { s.Spread = make([]Word, 9) }},
		{"after", func(s *Spec) { s.After = "r" }},
		{"supersedes", func(s *Spec) { s.Supersedes = "r" }},
	} {
		bad := s
		c.set(&bad)
		if err := bad.Validate(); err == nil || !strings.Contains(err.Error(), c.field+": ") {
			t.Errorf("%s: %v", c.field, err)
		}
	}
}

func TestVariables(t *testing.T) {
	parse := func(doc string) (v Variable, err error) {
		if err = json.Unmarshal([]byte(doc), &v); err == nil {
			err = v.Validate()
		}
		return v, err
	}
	for _, c := range []struct{ doc, says string }{
		{`{"name":"v"}`, "type: is missing"},
		{`{"name":"v","type":"text"}`, `"text" isn't a type`},
		{`{"name":"V","type":"string"}`, "isn't allowed"},
		{`{"name":"v","type":"string","pattern":"("}`, "pattern: "},
		{`{"name":"v","type":"string","pattern":"a)|(?:b"}`, "pattern: "},
		{`{"name":"v","type":"integer","pattern":"1"}`, "pattern: only a string"},
		{`{"name":"v","type":"string","min":1}`, "min: only an integer"},
		{`{"name":"v","type":"integer","min":2,"max":1}`, "min: 2 is over max 1"},
		{`{"name":"v","type":"string","enact":"socket"}`, "enact: "},
		{`{"name":"v","type":"string","allowed":["a",7]}`, "allowed[1]: "},
		{`{"name":"v","type":"string","initial":1.10}`, "put it in quotes"},
		{`{"name":"v","type":"string","allowed":["a"],"initial":"b"}`, "allowed are a"},
		{`{"name":"v","type":"integer","max":5,"initial":6}`, "the most is 5"},
	} {
		if _, err := parse(c.doc); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", c.doc, err, c.says)
		}
	}
	for _, c := range []struct {
		doc       string
		good, bad []string // as JSON
	}{
		{`{"name":"v","type":"string"}`, []string{`""`, `"1.10"`}, []string{`1.10`, `true`}},
		{`{"name":"v","type":"string","pattern":"[0-9.]+"}`, []string{`"1.10"`}, []string{`""`, `"a1.10"`, `"1.10b"`}},
		{`{"name":"v","type":"string","pattern":"a|b"}`, []string{`"a"`, `"b"`}, []string{`"ab"`, `"ax"`, `"xb"`}},
		{`{"name":"v","type":"string","pattern":"(?m)^a$"}`, []string{`"a"`}, []string{`"ba"`}},
		{`{"name":"v","type":"integer","min":-1,"max":3}`, []string{`-1`, `3`, `3.0`}, []string{`-2`, `4`, `1.5`, `"1"`}},
		{`{"name":"v","type":"integer","min":0,"max":0}`, []string{`0`}, []string{`1`, `-1`}},
		{`{"name":"v","type":"number","min":0.5}`, []string{`0.5`, `1`, `1e300`}, []string{`0.25`, `0`, `"1"`}},
		{`{"name":"v","type":"number","allowed":[1,2.5]}`, []string{`1`, `1.0`, `2.50`}, []string{`2`, `"1"`}},
		{`{"name":"v","type":"boolean"}`, []string{`true`, `false`}, []string{`0`, `"true"`}},
	} {
		v, err := parse(c.doc)
		if err != nil {
			t.Errorf("%s: %v", c.doc, err)
		}
		for i, in := range append(c.good, c.bad...) {
			var w Value
			if err := json.Unmarshal([]byte(in), &w); err != nil {
				t.Fatal(err)
			}
			if err := v.Accept(w); (err == nil) != (i < len(c.good)) {
				t.Errorf("%s: %s: %v", c.doc, in, err)
			}
		}
	}
	if err := (&Variable{Name: "v", Type: String}).Accept(Value{}); err == nil {
		t.Error("the absent value is accepted")
	}
}
