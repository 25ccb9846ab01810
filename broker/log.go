package broker

import (
	"fmt"
	"log/slog"
)

// logger hands the server's log to slog. The server's notices are no news to an
// operator of Tsunami, so they come at debug level.
type logger struct {
	slog    *slog.Logger
	fatal   chan string   // the first reason why the server can't go on
	trouble chan struct{} // that it logged an error
}

func (l *logger) Noticef(format string, v ...any) {
	l.slog.Debug("broker notice", "text", fmt.Sprintf(format, v...))
}

func (l *logger) Warnf(format string, v ...any) {
	l.slog.Warn("broker warning", "text", fmt.Sprintf(format, v...))
}

func (l *logger) Errorf(format string, v ...any) {
	l.slog.Error("broker error", "text", fmt.Sprintf(format, v...))
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
