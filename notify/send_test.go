package notify

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/rollout"
)

// quickly is a webhook's timeout in these tests, generous for a busy machine.
const quickly = 10 * time.Second

func post(t *testing.T, w *Webhook, timeout time.Duration) (string, error) {
	t.Helper()
	e := Example(Aborted, day)
	body, err := (&Receiver{}).render(e)
	if err != nil {
		t.Fatal(err)
	}
	return (&poster{w, timeout}).send(t.Context(), e, body, day)
}

func TestSignature(t *testing.T) {
	secret := strings.Repeat("s", 32)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		// As docs/notifications.md tells receivers to do it.
		stamp, signature, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("Tsunami-Signature"), "t="), ",v1=")
		mac := hmac.New(sha256.New, []byte(secret))
		_, _ = fmt.Fprintf(mac, "%s.%s", stamp, body) // it never fails
		if got, _ := hex.DecodeString(signature); !hmac.Equal(got, mac.Sum(nil)) {
			t.Errorf("the signature is wrong: %s", r.Header.Get("Tsunami-Signature"))
		}
		if n, err := strconv.ParseInt(stamp, 10, 64); err != nil || n != day.Unix() {
			t.Errorf("the time is %s", stamp)
		}
		var e Event
		if err := json.Unmarshal(body, &e); err != nil || e.ID != r.Header.Get("Tsunami-Event-Id") || string(e.Kind) != r.Header.Get("Tsunami-Event") {
			t.Errorf("%v: %s", err, body)
		}
		if r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" || r.Header.Get("X-Team") != "ops" {
			t.Errorf("%s with %v", r.Method, r.Header)
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	defer server.Close()
	dir := t.TempDir()
	w := &Webhook{URL: server.URL, SecretFile: write(t, dir, "secret", secret+"\n"), HeadersFile: write(t, dir, "headers", "X-Team: ops\nTsunami-Event: forged\n")}
	if answer, err := post(t, w, quickly); err != nil || answer != "204 No Content" {
		t.Errorf("got %q, %v", answer, err)
	}
	// A secret is replaced without a restart; what can't be read is tried again.
	secret = strings.Repeat("n", 32)
	write(t, dir, "secret", secret)
	if _, err := post(t, w, quickly); err != nil {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(dir, "secret")); err != nil {
		t.Fatal(err)
	}
	_, err := post(t, w, quickly)
	if f, ok := errors.AsType[*failure](err); !ok || f.final {
		t.Errorf("got %v", err)
	}
}

func TestAnswers(t *testing.T) {
	elsewhere := 0
	mux := http.NewServeMux()
	mux.HandleFunc("/elsewhere", func(http.ResponseWriter, *http.Request) { elsewhere++ })
	mux.HandleFunc("/{status}", func(w http.ResponseWriter, r *http.Request) {
		status, err := strconv.Atoi(r.PathValue("status"))
		if err != nil {
			t.Error(err)
		}
		if after := r.URL.Query().Get("after"); after != "" {
			w.Header().Set("Retry-After", after)
		}
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, strings.Repeat("no\x1b[31m ", 100_000)) // the reader may have gone
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	for _, c := range []struct {
		path  string
		final bool
		after time.Duration
		want  string
	}{
		{"/200", false, 0, ""},
		{"/202", false, 0, ""},
		{"/302", true, 0, "redirects aren't followed"},
		{"/307", true, 0, "redirects aren't followed"},
		{"/400", true, 0, "it answered 400 Bad Request: no [31m no"},
		{"/404", true, 0, "404"},
		{"/410", true, 0, "410"},
		{"/408", false, 0, "408"},
		{"/429?after=7", false, 7 * time.Second, "429"},
		{"/429?after=99999999999999999999", false, 0, "429"},
		{"/503?after=86400", false, maxRetryAfter, "503"},
		{"/503?after=-3", false, 0, "503"},
		{"/503?after=" + strings.ReplaceAll(day.Add(90*time.Second).Format(http.TimeFormat), " ", "%20"), false, 90 * time.Second, "503"},
		{"/503?after=soon", false, 0, "503"},
		{"/500", false, 0, "500"},
	} {
		answer, err := post(t, &Webhook{URL: server.URL + c.path}, quickly)
		if c.want == "" {
			if err != nil || answer == "" {
				t.Errorf("%s: %q, %v", c.path, answer, err)
			}
			continue
		}
		f, ok := errors.AsType[*failure](err)
		if !ok || f.final != c.final || f.after != c.after || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 400 || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%s: got %+v, %.500v", c.path, f, err)
		}
	}
	if elsewhere > 0 {
		t.Error("a redirect was followed")
	}
}

func TestDeadReceivers(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	gone := httptest.NewServer(nil)
	gone.Close()
	endless := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // else the server doesn't see that the client goes
		w.WriteHeader(http.StatusInternalServerError)
		_ = http.NewResponseController(w).Flush() // the test sees what comes of it
		<-r.Context().Done()
	}))
	defer endless.Close()
	for _, url := range []string{"http://" + silent.Addr().String() + "/s3cret", gone.URL + "/s3cret", endless.URL + "/s3cret"} {
		start := time.Now()
		_, err := post(t, &Webhook{URL: url}, 300*time.Millisecond)
		if f, ok := errors.AsType[*failure](err); !ok || f.final || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", url, err)
		}
		if took := time.Since(start); took > quickly {
			t.Errorf("%s: it took %s", url, took)
		}
	}
}

func TestBackoff(t *testing.T) {
	for attempt, most := range map[int]time.Duration{0: time.Second, 3: 8 * time.Second, 9: time.Minute, 1000: time.Minute} {
		for range 100 {
			if d := backoff(attempt); d < most/2 || d > most {
				t.Errorf("attempt %d: %s", attempt, d)
			}
		}
	}
}

// script writes a program.
func script(t *testing.T, text string) string {
	t.Helper()
	file := write(t, t.TempDir(), "program", "#!/bin/sh\n"+text)
	if err := os.Chmod(file, 0o700); err != nil {
		t.Fatal(err)
	}
	return file
}

func execute(t *testing.T, timeout time.Duration, e Event, command ...string) (string, error) {
	t.Helper()
	body, err := (&Receiver{}).render(e)
	if err != nil {
		t.Fatal(err)
	}
	return (&runner{&Exec{Command: command}, timeout}).send(t.Context(), e, body, day)
}

func TestProgram(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	program := script(t, `{ cat; echo; echo "$1 $TSUNAMI_EVENT $TSUNAMI_ROLLOUT $TSUNAMI_VALUE $TSUNAMI_SEQUENCE $TSUNAMI_NEXT"; echo "$TSUNAMI_WHY"; } > "$OUT"`)
	t.Setenv("OUT", out)
	e := hostile()
	if _, err := execute(t, quickly, e, program, "$(touch /nonexistent/x) an argument"); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(b), "\n")
	var got Event
	if err := json.Unmarshal([]byte(lines[0]), &got); err != nil || got.Why != e.Why {
		t.Errorf("%v: %s", err, lines[0])
	}
	if want := "$(touch /nonexistent/x) an argument aborted docker-1-12-3 1.12.3 4711 tsunamictl rollout show docker-1-12-3"; lines[1] != want || lines[2] != e.Why {
		t.Errorf("got %q", lines[1:])
	}
}

func TestProgramFails(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"exit code", "i=0; while [ $i -lt 3000 ]; do echo filler; i=$((i+1)); done; echo no pager >&2; exit 3", "exit status 3"},
		{"it hangs", "echo hung; sleep 1000 & wait", "killed: it ran for longer than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			timeout := quickly
			if c.name == "it hangs" {
				timeout = 500 * time.Millisecond
			}
			start := time.Now()
			_, err := execute(t, timeout, Example(Aborted, day), script(t, c.text))
			f, ok := errors.AsType[*failure](err)
			if !ok || !f.final || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 2*maxText {
				t.Errorf("got %v", err)
			}
			if c.name == "exit code" && !strings.HasSuffix(err.Error(), "no pager") {
				t.Errorf("the end of what it said is lost: %v", err)
			}
			if took := time.Since(start); took > 2*quickly {
				t.Errorf("it took %s", took)
			}
		})
	}
	if _, err := execute(t, quickly, Example(Aborted, day), "/nonexistent/program"); err == nil {
		t.Error("there is no such program")
	}
	// A program that reads nothing, and one that leaves another behind, are fine.
	if _, err := execute(t, quickly, Example(Aborted, day), script(t, "exit 0")); err != nil {
		t.Error(err)
	}
	start := time.Now()
	if _, err := execute(t, 2*quickly, Example(Aborted, day), script(t, "sleep 5 & exit 0")); err != nil || time.Since(start) > 4*time.Second {
		t.Errorf("after %s: %v", time.Since(start), err)
	}
}

// The group of a program that hangs is gone: its children too.
func TestGroupIsKilled(t *testing.T) {
	pid := filepath.Join(t.TempDir(), "pid")
	t.Setenv("PID", pid)
	_, err := execute(t, 3*time.Second, Example(Aborted, day), script(t, `sleep 1000 & echo $! > "$PID"; wait`))
	if err == nil {
		t.Fatal("it should have been killed")
	}
	b, err := os.ReadFile(pid)
	if err != nil {
		t.Fatal(err)
	}
	child := strings.TrimSpace(string(b))
	for deadline := time.Now().Add(quickly); ; time.Sleep(20 * time.Millisecond) {
		stat, err := os.ReadFile("/proc/" + child + "/stat")
		if errors.Is(err, os.ErrNotExist) || strings.Contains(string(stat), ") Z ") { // gone, or nobody's yet
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %s is still there: %s", child, stat)
		}
	}
}

func TestTry(t *testing.T) {
	var got []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var e Event
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
			t.Error(err)
		}
		got = append(got, fmt.Sprint(e.Kind, " ", e.Test))
	}))
	defer server.Close()
	dir := t.TempDir()
	c, err := Load(write(t, dir, "notify.yaml", fmt.Sprintf(`
receivers:
  - {name: good, events: [started], webhook: {url: %s}}
  - {name: bad, exec: {command: [/nonexistent/program]}}
`, server.URL)))
	if err != nil {
		t.Fatal(err)
	}
	trials, err := Try(t.Context(), c, Aborted)
	if err != nil || len(trials) != 2 || trials[0].Err != nil || trials[0].Answer != "200 OK" || trials[1].Err == nil || trials[1].Receiver != rollout.ID("bad") {
		t.Errorf("got %+v, %v", trials, err)
	}
	if len(got) != 1 || got[0] != "aborted true" {
		t.Errorf("it was sent %q", got)
	}
	if _, err := Try(t.Context(), c, "abort"); err == nil || !strings.Contains(err.Error(), "want one of started, ") {
		t.Errorf("got %v", err)
	}
}
