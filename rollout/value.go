package rollout

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tsunami-rollouts/tsunami/field"
)

// Type is the type of a variable's values.
type Type string

// The types. Integers lie within ±2^53, so that every JSON reader keeps them
// whole; numbers are finite.
const (
	String  Type = "string"
	Integer Type = "integer"
	Number  Type = "number"
	Boolean Type = "boolean"
)

const (
	maxString  = 1024
	maxInteger = 1 << 53
)

// Value is one JSON scalar: string, integer, number or boolean. Values are
// comparable with ==; the zero Value is "absent" and is never encoded.
type Value struct {
	kind Type
	text string // the string itself, or the number's or boolean's canonical JSON
}

// StringValue makes a string value; it returns an error for more than 1 KiB,
// invalid UTF-8 or control characters.
func StringValue(s string) (Value, error) {
	switch {
	case len(s) > maxString:
		return Value{}, fmt.Errorf("a string of %d bytes: at most %d are allowed", len(s), maxString)
	case !utf8.ValidString(s):
		return Value{}, errors.New("a string must be valid UTF-8")
	case strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f || r >= 0x80 && r < 0xa0 }):
		return Value{}, errors.New("a string must have no control characters")
	}
	return Value{String, s}, nil
}

// ParseValue reads a value of the given type from plain text, as a person
// types it or a program prints it. A whole number is an integer here too, as it
// is when it comes back from JSON.
func ParseValue(t Type, text string) (Value, error) {
	if t == String {
		return StringValue(text)
	}
	var v Value
	err := v.UnmarshalJSON([]byte(text))
	if err != nil || v.kind != t && (v.kind != Integer || t != Number) {
		return Value{}, fmt.Errorf("%q isn't %s", field.Shorten(text), article(t))
	}
	return v, nil
}

// IsZero says whether v is absent.
func (v Value) IsZero() bool { return v.kind == "" }

// Type returns the value's type, or "" for the absent value. An integer is
// also allowed wherever a number is.
func (v Value) Type() Type { return v.kind }

// Text returns the value as plain text: a string without quotes.
func (v Value) Text() string { return v.text }

// String returns the value as it is shown to people.
func (v Value) String() string {
	if v.IsZero() {
		return "(none)"
	}
	return v.text
}

// Matches says whether observed, which a program may have printed as text,
// says the same as v.
func (v Value) Matches(observed Value) bool {
	if v == observed {
		return true
	}
	if v.IsZero() || observed.IsZero() {
		return false
	}
	if v.kind == String || observed.kind == v.kind {
		return v.kind == String && v.text == observed.text
	}
	w, err := ParseValue(v.kind, observed.text)
	return err == nil && v.text == w.text
}

// MarshalJSON encodes the scalar. The absent value is null.
func (v Value) MarshalJSON() ([]byte, error) {
	switch v.kind {
	case "":
		return []byte("null"), nil
	case String:
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		if err := e.Encode(v.text); err != nil {
			return nil, err
		}
		return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
	default:
		return []byte(v.text), nil
	}
}

// UnmarshalJSON decodes one scalar and refuses everything else.
func (v *Value) UnmarshalJSON(b []byte) error {
	b = bytes.TrimSpace(b)
	if len(b) == 0 {
		return errors.New("no value")
	}
	switch c := b[0]; {
	case !utf8.Valid(b):
		return errors.New("a string must be valid UTF-8") // the JSON library would replace what isn't
	case c == '"':
		var s string
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
		w, err := StringValue(s)
		if err != nil {
			return err
		}
		*v = w
	case bytes.Equal(b, []byte("true")), bytes.Equal(b, []byte("false")):
		*v = Value{Boolean, string(b)}
	case c == '-' || c >= '0' && c <= '9':
		if !json.Valid(b) {
			return fmt.Errorf("%q isn't a number", field.Shorten(string(b)))
		}
		return v.number(string(b))
	case bytes.Equal(b, []byte("null")):
		return errors.New("null isn't a value: leave the field out")
	default:
		return errors.New("a value must be one string, number or boolean")
	}
	return nil
}

func (v *Value) number(text string) error {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsInf(f, 0) {
		return fmt.Errorf("%s is out of range", field.Shorten(text))
	}
	if !strings.ContainsAny(text, ".eE") {
		// Not by way of a float, which would make 2^53+1 of it 2^53.
		i, err := strconv.ParseInt(text, 10, 64)
		if err != nil || i < -maxInteger || i > maxInteger {
			return fmt.Errorf("%s is out of range: integers lie within ±2^53", field.Shorten(text))
		}
		*v = Value{Integer, strconv.FormatInt(i, 10)}
		return nil
	}
	if f != math.Trunc(f) {
		*v = Value{Number, strconv.FormatFloat(f, 'g', -1, 64)}
		return nil
	}
	if f < -maxInteger || f > maxInteger {
		*v = Value{Number, strconv.FormatFloat(f, 'g', -1, 64)}
		return nil
	}
	*v = Value{Integer, strconv.FormatInt(int64(f), 10)}
	return nil
}

func article(t Type) string {
	if t == Integer {
		return "an integer"
	}
	return "a " + string(t)
}

// Document is the flat JSON object of a host's desired or actual state.
type Document map[Name]Value

func (v Value) float() float64 {
	f, _ := strconv.ParseFloat(v.text, 64) // canonical by construction; only called on numbers
	return f
}
