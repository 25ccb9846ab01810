package field

import (
	"fmt"
	"strings"
)

// The kinds of names. Each is parsed once, where it enters the program; a
// value of one of these types that came from its Parse function, or was
// decoded from JSON or YAML, is safe as a subject token, a JSON key and a part
// of a file name.
type (
	// Host is a machine's DNS name, lower case, dots allowed, at most 253 bytes.
	Host string
	// Name is a variable's name: [a-z][a-z0-9_]{0,62}, so that it is at once a
	// subject token, a JSON key, an environment variable and a Puppet fact.
	Name string
	// ID names a rollout, objective, blackout, check or operator:
	// [a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?.
	ID string
	// Word is a role, a label's name or a label's value: as ID, with _ and .
	// allowed inside.
	Word string
)

// ParseHost checks a host's name. The error says what is allowed.
func ParseHost(s string) (Host, error) {
	if s == "" || len(s) > 253 {
		return "", nameError("host", s, "a DNS name of 1 to 253 characters")
	}
	for label := range strings.SplitSeq(s, ".") {
		if !between(label, 63, "-") {
			return "", nameError("host", s, "a lower-case DNS name: labels of a-z, 0-9 and inner hyphens, at most 63 each, joined by dots")
		}
	}
	return Host(s), nil
}

// ParseName checks a variable's name. The error says what is allowed.
func ParseName(s string) (Name, error) {
	ok := s != "" && len(s) <= 63 && s[0] >= 'a' && s[0] <= 'z'
	for i := 0; ok && i < len(s); i++ {
		ok = lowerOrDigit(s[i]) || s[i] == '_'
	}
	if !ok {
		return "", nameError("variable", s, "a lower-case letter, then at most 62 of a-z, 0-9 and _")
	}
	return Name(s), nil
}

// ParseID checks the name of a rollout, objective, blackout, check or
// operator; kind is what the error calls it.
func ParseID(kind, s string) (ID, error) {
	if !between(s, 63, "-") {
		return "", nameError(kind, s, "1 to 63 of a-z, 0-9 and inner hyphens")
	}
	return ID(s), nil
}

// ParseWord checks a role, a label's name or a label's value; kind is what the
// error calls it.
func ParseWord(kind, s string) (Word, error) {
	if !between(s, 63, "-_.") {
		return "", nameError(kind, s, "1 to 63 of a-z, 0-9 and inner - _ .")
	}
	return Word(s), nil
}

// between says whether s starts and ends with a lower-case letter or digit,
// has only those and the bytes of inner between, and is 1 to most bytes long.
func between(s string, most int, inner string) bool {
	if s == "" || len(s) > most || !lowerOrDigit(s[0]) || !lowerOrDigit(s[len(s)-1]) {
		return false
	}
	for i := range len(s) {
		if !lowerOrDigit(s[i]) && strings.IndexByte(inner, s[i]) < 0 {
			return false
		}
	}
	return true
}

func lowerOrDigit(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

func nameError(kind, s, allowed string) error {
	if len(s) > 80 {
		s = s[:80] + "…"
	}
	return fmt.Errorf("%s name %q isn't allowed: want %s", kind, s, allowed)
}

// UnmarshalText parses and checks.
func (h *Host) UnmarshalText(b []byte) (err error) { *h, err = ParseHost(string(b)); return err }

// UnmarshalText parses and checks.
func (n *Name) UnmarshalText(b []byte) (err error) { *n, err = ParseName(string(b)); return err }

// UnmarshalText parses and checks. The empty text is the empty ID: an optional
// field left out.
func (id *ID) UnmarshalText(b []byte) (err error) {
	if len(b) == 0 {
		*id = ""
		return nil
	}
	*id, err = ParseID("this", string(b))
	return err
}

// UnmarshalText parses and checks.
func (w *Word) UnmarshalText(b []byte) (err error) {
	*w, err = ParseWord("this", string(b))
	return err
}
