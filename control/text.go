package control

import (
	"strings"
	"unicode/utf8"
)

// shorten cuts text from elsewhere to at most n bytes, at a rune.
func shorten(s string, n int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= n {
		return s
	}
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
