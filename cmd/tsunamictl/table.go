package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
)

// table prints rows in columns as wide as their widest cell. The last column
// isn't padded, so that long reasons don't make every row long.
type table struct {
	columns []string
	rows    [][]string
	right   map[int]bool // columns of numbers
	paint   func(column int, text string) string
}

func newTable(columns ...string) *table {
	return &table{columns: columns, right: make(map[int]bool)}
}

// numbers makes the columns with these names align right.
func (t *table) numbers(names ...string) *table {
	for i, c := range t.columns {
		for _, n := range names {
			if c == n {
				t.right[i] = true
			}
		}
	}
	return t
}

// row adds a row. What isn't text is printed as fmt.Sprint does; nothing is
// shown as "-".
func (t *table) row(cells ...any) {
	row := make([]string, len(t.columns))
	for i := range row {
		row[i] = "-"
		if i < len(cells) {
			if s := strings.TrimSpace(printable(fmt.Sprint(cells[i]))); s != "" {
				row[i] = s
			}
		}
	}
	t.rows = append(t.rows, row)
}

func (t *table) print(w io.Writer) {
	widths := make([]int, len(t.columns))
	all := append([][]string{t.columns}, t.rows...)
	for _, row := range all {
		for i, cell := range row {
			widths[i] = max(widths[i], width(cell))
		}
	}
	for n, row := range all {
		var b strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", widths[i]-width(cell))
			if t.paint != nil && n > 0 {
				cell = t.paint(i, cell)
			}
			switch {
			case t.right[i]:
				b.WriteString(pad + cell)
			case i == len(row)-1:
				b.WriteString(cell)
			default:
				b.WriteString(cell + pad)
			}
			if i < len(row)-1 {
				b.WriteString("  ")
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}

// width is how many columns of a terminal a text takes.
func width(s string) int {
	n := 0
	for _, r := range s {
		switch {
		case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		case unicode.In(r, unicode.Han, unicode.Hangul, unicode.Hiragana, unicode.Katakana),
			r >= 0x3000 && r <= 0x303f, r >= 0xff01 && r <= 0xff60, r >= 0x1f300 && r <= 0x1faff:
			n += 2
		default:
			n++
		}
	}
	return n
}

// printable takes out what could steer a terminal, but for the runes to keep.
func printable(s string, keep ...rune) string {
	return strings.Map(func(r rune) rune {
		if slices.Contains(keep, r) {
			return r
		}
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}

// fields prints names and values below each other; empty values are left out.
type fields struct{ rows [][2]string }

func (f *fields) add(name string, value any) {
	if s := strings.TrimSpace(printable(fmt.Sprint(value))); s != "" {
		f.rows = append(f.rows, [2]string{name, s})
	}
}

func (f *fields) print(w io.Writer) {
	widest := 0
	for _, r := range f.rows {
		widest = max(widest, width(r[0]))
	}
	for _, r := range f.rows {
		fmt.Fprintf(w, "%s%s  %s\n", r[0], strings.Repeat(" ", widest-width(r[0])), r[1])
	}
}
