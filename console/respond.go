package console

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
)

// failure is the body of an API error. The codes are those of the operators'
// service: usage, not_found, unavailable, conflict; and unauthorized and forbidden.
type failure struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

func fail(w http.ResponseWriter, status int, code, message string) {
	h := w.Header()
	h.Del("ETag")
	h.Set("Content-Type", "application/json")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	_ = e.Encode(failure{code, message}) // a client that has gone needs no answer
}

// unavailable is an error that passes by itself.
func unavailable(w http.ResponseWriter, message string) {
	w.Header().Set("Retry-After", "5")
	fail(w, http.StatusServiceUnavailable, "unavailable", message)
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text+"\n") // a client that has gone needs no answer
}

// clip bounds what an error repeats of a request.
func clip(s string) string {
	if len(s) > 120 {
		s = s[:120] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}
