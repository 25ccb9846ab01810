package field

import "unicode/utf8"

// Shorten cuts a text that somebody wrote down to 60 bytes, for an error.
func Shorten(s string) string {
	if len(s) <= 60 {
		return s
	}
	for i := 60; ; i-- {
		if utf8.RuneStart(s[i]) {
			return s[:i] + "…"
		}
	}
}
