package rollout

import (
	"encoding/json"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestDecodeValue(t *testing.T) {
	for _, c := range []struct {
		in   string
		kind Type
		out  string // as JSON again
	}{
		{`"1.10"`, String, `"1.10"`},
		{`""`, String, `""`},
		{`"<&>` + "\u2028" + `"`, String, `"\u003c\u0026\u003e\u2028"`},
		{`"åäö 漢字 🦀"`, String, `"åäö 漢字 🦀"`},
		{`1`, Integer, `1`},
		{`1.0`, Integer, `1`}, // JSON has one kind of number: 1.0 is 1
		{`-0`, Integer, `0`},
		{`1e3`, Integer, `1000`},
		{`100000e-2`, Integer, `1000`},
		{`9007199254740992`, Integer, `9007199254740992`},
		{`-9007199254740992`, Integer, `-9007199254740992`},
		{`0.1`, Number, `0.1`},
		{`1.10`, Number, `1.1`},
		{`1e300`, Number, `1e+300`},
		{`true`, Boolean, `true`},
		{` false `, Boolean, `false`},
	} {
		var v Value
		if err := v.UnmarshalJSON([]byte(c.in)); err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		b, err := json.Marshal(v)
		if err != nil || v.Type() != c.kind || string(b) != c.out {
			t.Errorf("%s: a %s, %s, %v; want a %s, %s", c.in, v.Type(), b, err, c.kind, c.out)
		}
	}
}

func TestDecodeValueRefuses(t *testing.T) {
	for _, c := range []struct{ in, says string }{
		{``, "no value"},
		{`null`, "leave the field out"},
		{`[1]`, "one string, number or boolean"},
		{`{"a":1}`, "one string, number or boolean"},
		{`NaN`, "one string, number or boolean"},
		{`-Infinity`, "isn't a number"},
		{`TRUE`, "one string, number or boolean"},
		{`01`, "isn't a number"},
		{`1.`, "isn't a number"},
		{`+1`, "one string, number or boolean"},
		{`0x10`, "isn't a number"},
		{`1 2`, "isn't a number"},
		{`9007199254740993`, "±2^53"}, // a float would quietly make it …992
		{`-9007199254740993`, "±2^53"},
		{`123456789012345678901234567890`, "±2^53"},
		{`1e400`, "out of range"},
		{`1e999999999999999999999`, "out of range"},
		{`"a` + "\n" + `b"`, "invalid character"},
		{`"a\nb"`, "control characters"},
		{`"\u0000"`, "control characters"},
		{`"\u007f"`, "control characters"},
		{`"\u0085"`, "control characters"},
		{"\"\xff\"", "UTF-8"},
		{`"` + strings.Repeat("x", 1025) + `"`, "at most 1024"},
	} {
		var v Value
		err := v.UnmarshalJSON([]byte(c.in))
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%.40q: %v, want an error that says %q", c.in, err, c.says)
		}
		if !v.IsZero() {
			t.Errorf("%.40q: left the value %v behind", c.in, v)
		}
	}
}

func TestParseValue(t *testing.T) {
	for _, c := range []struct {
		kind Type
		text string
		json string // "": refused
	}{
		{String, "1.10", `"1.10"`},
		{String, "true", `"true"`},
		{String, "a\tb", ""},
		{String, "\xff", ""},
		{Integer, "7", "7"},
		{Integer, "7.5", ""},
		{Integer, "seven", ""},
		{Integer, "", ""},
		{Integer, "true", ""},
		{Number, "7", "7"},
		{Number, "7.5", "7.5"},
		{Number, "NaN", ""},
		{Boolean, "true", "true"},
		{Boolean, "1", ""},
		{Boolean, "yes", ""},
	} {
		v, err := ParseValue(c.kind, c.text)
		if (err == nil) != (c.json != "") {
			t.Errorf("ParseValue(%s, %q) = %v, %v", c.kind, c.text, v, err)
			continue
		}
		if err != nil {
			continue
		}
		b, err := json.Marshal(v)
		var back Value
		if err != nil || string(b) != c.json || json.Unmarshal(b, &back) != nil || back != v {
			t.Errorf("ParseValue(%s, %q) is %s, and comes back as %#v: want %#v", c.kind, c.text, b, back, v)
		}
	}
}

func TestMatches(t *testing.T) {
	value := func(s string) (v Value) {
		if err := json.Unmarshal([]byte(s), &v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, c := range []struct {
		want, observed string
		match          bool
	}{
		{`"1.10"`, `"1.10"`, true},
		{`"1.10"`, `1.10`, false}, // it has lost its last digit
		{`"7"`, `7`, true},
		{`"true"`, `true`, true},
		{`7`, `"7"`, true},
		{`7`, `"7.0"`, true},
		{`7`, `"8"`, false},
		{`7`, `"seven"`, false},
		{`7.5`, `"7.50"`, true},
		{`7.5`, `7`, false},
		{`true`, `"true"`, true},
		{`true`, `"yes"`, false},
		{`true`, `false`, false},
		{`true`, `1`, false},
	} {
		if got := value(c.want).Matches(value(c.observed)); got != c.match {
			t.Errorf("%s matches %s: %v", c.want, c.observed, got)
		}
	}
	if (Value{}).Matches(value(`""`)) || value(`""`).Matches(Value{}) || value(`0`).Matches(Value{}) {
		t.Error("the absent value matches an empty one")
	}
}

var anyValue = rapid.Custom(func(t *rapid.T) Value {
	for {
		var v Value
		var err error
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0:
			v, err = StringValue(rapid.StringN(-1, -1, 1024).Draw(t, "string"))
		case 1:
			v, err = ParseValue(Integer, formatInt(rapid.Int64Range(-maxInteger, maxInteger).Draw(t, "integer")))
		case 2:
			b, jsonErr := json.Marshal(rapid.Float64().Draw(t, "number"))
			if jsonErr != nil {
				continue
			}
			v, err = ParseValue(Number, string(b))
		default:
			v, err = ParseValue(Boolean, rapid.SampledFrom([]string{"true", "false"}).Draw(t, "boolean"))
		}
		if err == nil {
			return v
		}
	}
})

func formatInt(i int64) string {
	b, _ := json.Marshal(i) // never fails
	return string(b)
}

func TestValueRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := anyValue.Draw(t, "value")
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var back Value
		if err := json.Unmarshal(b, &back); err != nil || back != v {
			t.Fatalf("%s came back as %#v, %v: want %#v", b, back, err, v)
		}
	})
}
