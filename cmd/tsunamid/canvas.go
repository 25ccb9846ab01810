package main

import "strings"

// style is how a cell of the canvas looks.
type style uint8

const (
	plainStyle style = iota
	boldStyle
	dimStyle
	greenStyle
	redStyle
	oldStyle       // the value that the fleet comes from: yellow
	newStyle       // the value that it goes to: blue
	toldStyle      // told and not confirmed: light blue
	toldLine       // the line of the hosts told
	confirmedLine  // the line of the hosts confirmed
	plannedLine    // the ramp's straight line
	newOnOld       // the edge between blue below and yellow above
	numberOfStyles // not a style
)

// sgr are the terminal's codes for the styles, from the 256 colours that
// practically every terminal has.
var sgr = [numberOfStyles]string{
	plainStyle: "", boldStyle: "1", dimStyle: "38;5;244", greenStyle: "38;5;77", redStyle: "1;38;5;203",
	oldStyle: "38;5;220", newStyle: "38;5;33", toldStyle: "38;5;117",
	toldLine: "1;38;5;255", confirmedLine: "38;5;39", plannedLine: "38;5;242",
	newOnOld: "38;5;33;48;5;220",
}

type cell struct {
	r rune
	s style
}

// canvas is a grid of characters of single width. What is drawn outside of it
// is dropped, so nothing that is drawn has to look where the edge is.
type canvas struct {
	width, height int
	cells         []cell
}

func newCanvas(width, height int) *canvas {
	c := &canvas{width: max(0, width), height: max(0, height)}
	c.cells = make([]cell, c.width*c.height)
	for i := range c.cells {
		c.cells[i].r = ' '
	}
	return c
}

func (c *canvas) put(x, y int, r rune, s style) {
	if x >= 0 && x < c.width && y >= 0 && y < c.height {
		c.cells[y*c.width+x] = cell{r, s}
	}
}

// text draws a string and returns the column after it.
func (c *canvas) text(x, y int, s string, st style) int {
	for _, r := range s {
		c.put(x, y, r, st)
		x++
	}
	return x
}

// right draws a string that ends before column x.
func (c *canvas) right(x, y int, s string, st style) {
	c.text(x-len([]rune(s)), y, s, st)
}

// lines gives the rows with the terminal's codes, without trailing blanks.
func (c *canvas) lines() []string {
	out := make([]string, c.height)
	for y := range out {
		row := c.cells[y*c.width : (y+1)*c.width]
		end := len(row)
		for end > 0 && row[end-1].r == ' ' {
			end--
		}
		var b strings.Builder
		last := plainStyle
		for _, cell := range row[:end] {
			if cell.s != last {
				b.WriteString("\x1b[0")
				if sgr[cell.s] != "" {
					b.WriteString(";" + sgr[cell.s])
				}
				b.WriteByte('m')
				last = cell.s
			}
			b.WriteRune(cell.r)
		}
		if last != plainStyle {
			b.WriteString("\x1b[0m")
		}
		out[y] = b.String()
	}
	return out
}

// area is a rectangle of a canvas.
type area struct {
	c          *canvas
	x, y, w, h int
}

// braille plots dots, 2 × 4 to a character, into an area.
type braille struct {
	area
	dots []rune
	look []style
}

func newBraille(a area) *braille {
	return &braille{area: a, dots: make([]rune, max(0, a.w*a.h)), look: make([]style, max(0, a.w*a.h))}
}

// bits of the dots in a braille character, by column and row.
var brailleBits = [2][4]rune{{0x01, 0x02, 0x04, 0x40}, {0x08, 0x10, 0x20, 0x80}}

// dot sets the dot at column dx from the left and dy from the bottom. The
// latest style of a character wins.
func (b *braille) dot(dx, dy int, s style) {
	x, y := dx/2, b.h-1-dy/4
	if dx < 0 || dy < 0 || x >= b.w || y < 0 {
		return
	}
	b.dots[y*b.w+x] |= brailleBits[dx%2][3-dy%4]
	b.look[y*b.w+x] = s
}

// flush draws the dots onto the canvas.
func (b *braille) flush() {
	for i, d := range b.dots {
		if d != 0 {
			b.c.put(b.x+i%b.w, b.y+i/b.w, 0x2800+d, b.look[i])
		}
	}
}

// eighths are the blocks that fill a cell from below, by eighths.
var eighths = []rune(" ▁▂▃▄▅▆▇█")
