package broker

import (
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
)

// logger hands the server's log to slog. The server's notices are no news to an
// operator of Tsunami, so they come at debug level.
type logger struct {
	slog    *slog.Logger
	fatal   chan string   // the first reason why the server can't go on
	trouble chan struct{} // that it logged an error
	// broken is set by an error after which a stream takes nothing more until
	// the server is started again.
	broken atomic.Bool
}

func (l *logger) Noticef(format string, v ...any) {
	l.slog.Debug("broker notice", "text", fmt.Sprintf(format, v...))
}

func (l *logger) Warnf(format string, v ...any) {
	l.slog.Warn("broker warning", "text", fmt.Sprintf(format, v...))
}

func (l *logger) Errorf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	l.slog.Error("broker error", "text", text)
	if strings.Contains(strings.ToLower(text), "critical write error") {
		l.broken.Store(true)
	}
	select {
	case l.trouble <- struct{}{}:
	default:
	}
}

// Fatalf is called where the stand-alone server would exit. This one doesn't:
// Start returns the reason as its error.
func (l *logger) Fatalf(format string, v ...any) {
	select {
	case l.fatal <- fmt.Sprintf(format, v...):
	default:
		l.slog.Error("broker error", "text", fmt.Sprintf(format, v...))
	}
}

func (l *logger) Debugf(format string, v ...any) {}
func (l *logger) Tracef(format string, v ...any) {}
