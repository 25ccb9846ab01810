package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

// show is how the demo shows itself: drawn in a terminal, or as plain lines.
type show interface {
	// milestone and progress show one line of what goes on before the rollout;
	// progress may be left out where there is much of it.
	milestone(text string)
	progress(text string)
	// update shows how the rollout stands.
	update(s *scene)
	// event shows one line of what happens beside the rollout; a picture shows it
	// anyway.
	event(text string)
	// finish gives the output back: what is written after it stays.
	finish(s *scene)
}

// newShow draws where out is a terminal that can be drawn on, and otherwise
// prints lines to lines. NO_COLOR and TERM=dumb ask for lines.
func newShow(out, lines io.Writer) show {
	f, ok := out.(*os.File)
	kind := os.Getenv("TERM")
	if ok && os.Getenv("NO_COLOR") == "" && kind != "dumb" && kind != "" && term.IsTerminal(int(f.Fd())) {
		return &screen{file: f}
	}
	return &printer{out: lines}
}

// watched is an output that says when nobody reads it any more.
type watched struct {
	out  io.Writer
	gone func()
}

func (w *watched) Write(p []byte) (int, error) {
	n, err := w.out.Write(p)
	if err != nil {
		w.gone()
	}
	return n, err
}

// The terminal's codes, as ECMA-48 and xterm have them.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l" // the alternate screen, without a cursor
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	beginFrame  = "\x1b[?2026h\x1b[H" // shown at once at its end, where the terminal knows how
	endFrame    = "\x1b[J\x1b[?2026l"
	endLine     = "\x1b[K\r\n"
)

// screen draws frames on the terminal's alternate screen, each in one write.
type screen struct {
	file    *os.File
	entered bool
}

// wholePicture is how many rows the picture of the largest demo has.
const wholePicture = 40

func (s *screen) size() (width, height int) {
	width, height, err := term.GetSize(int(s.file.Fd()))
	if err != nil || width <= 0 || height <= 0 {
		return 80, 24
	}
	return width, height
}

// write sends one frame. A terminal that is gone shows nothing, and the signal
// that comes with it ends the demo.
func (s *screen) write(text string) { _, _ = s.file.WriteString(text) }

func (s *screen) frame(lines []string) {
	var b strings.Builder
	if !s.entered {
		s.entered = true
		b.WriteString(enterScreen)
	}
	b.WriteString(beginFrame)
	b.WriteString(strings.Join(lines, endLine))
	b.WriteString("\x1b[K" + endFrame)
	s.write(b.String())
}

func (s *screen) milestone(text string) { s.progress(text) }

func (s *screen) event(string) {}

func (s *screen) progress(text string) {
	width, _ := s.size()
	c := newCanvas(width, 2)
	c.text(1, 0, "Tsunami", boldStyle)
	c.text(1, 1, text, plainStyle)
	s.frame(c.lines())
}

func (s *screen) update(sc *scene) { s.frame(sc.picture(s.size()).lines()) }

// finish leaves the alternate screen and, if there is something to see, leaves
// the last picture behind.
func (s *screen) finish(sc *scene) {
	if s.entered {
		s.entered = false
		s.write(leaveScreen)
	}
	if len(sc.samples) > 0 {
		width, height := s.size()
		sc.footers = nil
		lines := sc.picture(width, max(height, wholePicture)).lines()
		for len(lines) > 0 && lines[len(lines)-1] == "" { // where the footer was
			lines = lines[:len(lines)-1]
		}
		s.write(strings.Join(lines, "\r\n") + "\r\n")
	}
}

// printer prints a line when there is something new, but no more than one a
// second.
type printer struct {
	out  io.Writer
	last time.Time
	text string
}

func (p *printer) print(text string, always bool) {
	now := time.Now()
	if text == p.text || !always && now.Sub(p.last) < time.Second {
		return
	}
	p.last, p.text = now, text
	_, _ = fmt.Fprintln(p.out, text) // a reader that is gone ends the demo
}

func (p *printer) milestone(text string) { p.print(text, true) }

func (p *printer) event(text string) { p.print(text, true) }

func (p *printer) progress(text string) { p.print(text, false) }

func (p *printer) update(s *scene) {
	if len(s.samples) > 0 {
		p.print(s.line(), false)
	}
}

func (p *printer) finish(s *scene) {
	if len(s.samples) > 0 {
		p.print(s.line(), true)
	}
}

// line is the scene as one line of text.
func (s *scene) line() string {
	v, n := &s.view, s.newest().changed
	width := len(fmt.Sprint(s.hosts))
	_, _, words := s.status()
	return fmt.Sprintf("%6.1fs  planned %*d  told %*d  confirmed %*d  in flight %*d  %s: %*d  %s: %*d  %s",
		s.now().Seconds(), width, v.Planned, width, v.Told, width, v.Confirmed, width, v.InFlight,
		s.from, width, s.hosts-n, s.to, width, n, words)
}
