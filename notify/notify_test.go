package notify

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/tsunami-rollouts/tsunami/broker"
	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// world is a broker with the streams, and a directory for the state.
type world struct {
	t   *testing.T
	nc  *nats.Conn
	js  jetstream.JetStream
	dir string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	b, err := broker.Start(broker.Options{Dir: t.TempDir(), Unsynced: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Shutdown)
	nc, err := bus.Connect(bus.ConnectOptions{Name: "test", InProcess: b.InProcess()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := bus.Setup(t.Context(), js, 1); err != nil {
		t.Fatal(err)
	}
	return &world{t, nc, js, t.TempDir()}
}

func (w *world) put(kind subjects.Kind, name string, body any) uint64 {
	w.t.Helper()
	data, err := subjects.Encode(body)
	if err != nil {
		w.t.Fatal(err)
	}
	h := subjects.Header{subjects.HeaderTime: {time.Now().UTC().Format(time.RFC3339Nano)}}
	if kind == subjects.KindAbort || kind == subjects.KindStop {
		h = nil
	}
	sequence, err := bus.Put(w.t.Context(), w.js, bus.Message{Subject: kind.Subject(name), Header: h, Data: data})
	if err != nil {
		w.t.Fatal(err)
	}
	return sequence
}

func (w *world) becomes(id rollout.ID, s rollout.State) {
	w.t.Helper()
	w.put(subjects.KindRollout, string(id), docker(s, of(id, "")))
}

func (w *world) aborts(id, why string) { w.put(subjects.KindAbort, id, subjects.Abort{Why: why}) }

// load makes the configuration of receivers.
func (w *world) load(receivers ...string) *Config {
	w.t.Helper()
	c, err := Load(write(w.t, w.t.TempDir(), "notify.yaml", "receivers:\n  - "+strings.Join(receivers, "\n  - ")+"\n"))
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// running is a Run of the part.
type running struct {
	t        *testing.T
	registry *prometheus.Registry
	log      *lines
	stop     func()
}

// run runs the part until stop, or the test's end.
func (w *world) run(c *Config) *running {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	r := &running{t: w.t, registry: prometheus.NewRegistry(), log: &lines{}}
	o := Options{
		Conn: w.nc, Config: c, Dir: w.dir, Logger: slog.New(slog.NewTextHandler(r.log, nil)), Registerer: r.registry,
		pause: func(int) time.Duration { return 20 * time.Millisecond },
	}
	done := make(chan error, 1)
	go func() { done <- Run(ctx, o) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				w.t.Errorf("Run: %v", err)
			}
		case <-time.After(20 * time.Second):
			w.t.Error("Run doesn't end")
		}
	})
	w.t.Cleanup(r.stop)
	r.eventually(func() error {
		if !strings.Contains(r.log.String(), "telling what happens") {
			return fmt.Errorf("it doesn't begin: %s", r.log)
		}
		return nil
	})
	return r
}

func (r *running) eventually(try func() error) {
	r.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%v\n%s", err, r.log)
		}
	}
}

// lines is a log that may be read while it is written.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// hook is a webhook that keeps what it took.
type hook struct {
	*httptest.Server
	status atomic.Int64 // that it answers; 0: 200
	asked  atomic.Int64

	mu  sync.Mutex
	got []Event
}

func newHook(t *testing.T) *hook {
	h := &hook{}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var e Event
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
			t.Error(err)
		}
		h.asked.Add(1)
		if s := h.status.Load(); s != 0 {
			w.WriteHeader(int(s))
			return
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.got = append(h.got, e)
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *hook) heard() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]string, len(h.got))
	for i, e := range h.got {
		out[i] = strings.TrimSpace(fmt.Sprintf("%s %s", e.Kind, e.Rollout))
	}
	return out
}

// hears waits for the events, in this order and no others.
func (r *running) hears(h *hook, want ...string) {
	r.t.Helper()
	r.eventually(func() error {
		if got := h.heard(); !slices.Equal(got, want) {
			return fmt.Errorf("heard %q, want %q", got, want)
		}
		return nil
	})
}

func webhook(name string, h *hook, more string) string {
	return fmt.Sprintf("{name: %s, webhook: {url: %s%s}}", name, h.URL, more)
}

func TestNothingTwiceNothingLost(t *testing.T) {
	w, h := newWorld(t), newHook(t)
	w.becomes("old", rollout.StatePending) // what was before the first start is past
	w.becomes("old", rollout.StateRunning)
	c := w.load(webhook("a", h, ""))
	r := w.run(c)
	w.becomes("docker", rollout.StatePending)
	w.becomes("docker", rollout.StateRunning)
	r.hears(h, "started docker")
	r.stop()

	// What happens meanwhile is told afterwards.
	w.aborts("docker", "users see errors")
	w.becomes("docker", rollout.StateFrozen)
	w.put(subjects.KindStop, "", subjects.Abort{Why: "incident 4711"})
	r = w.run(c)
	r.hears(h, "started docker", "aborted docker", "stopped")
	w.becomes("old", rollout.StateCancelled)
	r.hears(h, "started docker", "aborted docker", "stopped", "cancelled old")
	r.stop()

	// What a receiver hasn't taken yet is told after a restart too, in order.
	h.status.Store(503)
	r = w.run(c)
	w.becomes("docker", rollout.StateCancelled)
	w.becomes("other", rollout.StatePending)
	w.becomes("other", rollout.StateRunning)
	before := h.asked.Load()
	r.eventually(func() error {
		if n := h.asked.Load(); n < before+3 {
			return fmt.Errorf("attempts: %d", n-before)
		}
		return nil
	})
	r.stop()
	h.status.Store(0)
	r = w.run(c)
	r.hears(h, "started docker", "aborted docker", "stopped", "cancelled old", "cancelled docker", "started other")
	r.stop()
	r = w.run(c)
	w.becomes("other", rollout.StateCompleted)
	r.hears(h, "started docker", "aborted docker", "stopped", "cancelled old", "cancelled docker", "started other", "completed other")

	ids := make(map[string]bool)
	for _, e := range h.got {
		ids[e.ID] = true
	}
	if len(ids) != len(h.got) {
		t.Errorf("ids: %d of %d events", len(ids), len(h.got))
	}
}

// A receiver that hangs, one that is gone and one whose program hangs delay no
// other, and not the end.
func TestDeadReceiverDelaysNothing(t *testing.T) {
	w, h, gone := newWorld(t), newHook(t), newHook(t)
	gone.Close()
	release := make(chan struct{})
	hangs := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	t.Cleanup(hangs.Close)
	t.Cleanup(func() { close(release) })
	r := w.run(w.load(
		fmt.Sprintf("{name: hangs, webhook: {url: %s, timeout: 10m}}", hangs.URL),
		webhook("gone", gone, ""),
		fmt.Sprintf("{name: program, exec: {command: [%s], timeout: 10m}}", script(t, "sleep 1000 & wait")),
		webhook("good", h, ""),
	))
	var want []string
	for i := range 20 {
		id := rollout.ID(fmt.Sprintf("r%d", i))
		w.becomes(id, rollout.StatePending)
		w.becomes(id, rollout.StateRunning)
		want = append(want, "started "+string(id))
	}
	r.hears(h, want...)
	start := time.Now()
	r.stop()
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("stopping took %s", took)
	}
}

func TestQueueIsBounded(t *testing.T) {
	w, h := newWorld(t), newHook(t)
	h.status.Store(500)
	r := w.run(w.load(webhook("a", h, "")))
	const all = maxQueue + 20
	for i := range all {
		w.aborts(fmt.Sprintf("r%d", i), "typo")
	}
	metric := func(name string) float64 {
		families, err := r.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == name && len(f.GetMetric()) > 0 {
				m := f.GetMetric()[0]
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
		return -1
	}
	r.eventually(func() error {
		if n := metric("tsunami_notifications_dropped_total"); n != all-maxQueue {
			return fmt.Errorf("dropped: %g", n)
		}
		return nil
	})
	if n := metric("tsunami_notification_queue_length"); n != maxQueue {
		t.Errorf("the queue is %g long", n)
	}
	h.status.Store(0)
	want := []string{"aborted r0"} // it was under way
	for i := all - maxQueue + 1; i < all; i++ {
		want = append(want, fmt.Sprintf("aborted r%d", i))
	}
	r.hears(h, want...)
	r.eventually(func() error {
		if n := metric("tsunami_notification_queue_length"); n != 0 {
			return fmt.Errorf("the queue is %g long", n)
		}
		return nil
	})
	families, err := r.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if problems, err := promlint.NewWithMetricFamilies(families).Lint(); err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
}

func TestRetries(t *testing.T) {
	w, h, refuses, late := newWorld(t), newHook(t), newHook(t), newHook(t)
	h.status.Store(503)
	refuses.status.Store(403)
	late.status.Store(500)
	r := w.run(w.load(webhook("a", h, ""), webhook("refuses", refuses, ""), webhook("late", late, ", retryFor: 2s")))
	w.aborts("r1", "typo")
	r.eventually(func() error {
		if h.asked.Load() < 5 || !strings.Contains(r.log.String(), "receiver=late event=r1.aborted") || strings.Count(r.log.String(), "is given up") != 2 {
			return fmt.Errorf("attempts: %d", h.asked.Load())
		}
		return nil
	})
	if n := refuses.asked.Load(); n != 1 {
		t.Errorf("a 403 was tried %d times", n)
	}
	if late.asked.Load() < 2 {
		t.Error("it was given up at once")
	}
	h.status.Store(0)
	r.hears(h, "aborted r1")
	r.eventually(func() error {
		if got, want := r.outcomes(), "a=sent late=failed refuses=failed"; got != want {
			return fmt.Errorf("outcomes: %s, want %s", got, want)
		}
		return nil
	})
}

// outcomes are the outcomes that were counted, by receiver.
func (r *running) outcomes() string {
	families, err := r.registry.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	var out []string
	for _, f := range families {
		if f.GetName() != "tsunami_notifications_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := make(map[string]string)
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			out = append(out, labels["receiver"]+"="+labels["outcome"])
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// What is too old when it could first be sent isn't.
func TestAge(t *testing.T) {
	w, h := newWorld(t), newHook(t)
	c := w.load(webhook("a", h, ""))
	w.run(c).stop()
	w.aborts("r1", "long ago")
	time.Sleep(300 * time.Millisecond)
	c.MaxAge = rollout.Duration(200 * time.Millisecond)
	r := w.run(c)
	r.eventually(func() error {
		if !strings.Contains(r.log.String(), "too old") {
			return fmt.Errorf("nothing is too old")
		}
		return nil
	})
	if h.asked.Load() != 0 {
		t.Error("it was sent")
	}
}

func TestWavesAndHoldsOverARestart(t *testing.T) {
	w, h := newWorld(t), newHook(t)
	c := w.load(webhook("a", h, ""))
	c.HeldAfter = rollout.Duration(50 * time.Millisecond)
	step := func(id string, p rollout.Progress) { w.put(subjects.KindProgress, id, p) }
	wavy := func(id rollout.ID) {
		w.put(subjects.KindRollout, string(id), docker(rollout.StateRunning, waves, of(id, "")))
	}
	full := rollout.Reason{Code: rollout.InFlightLimit}
	wavy("old")
	step("old", rollout.Progress{Elapsed: time.Hour, Running: true}) // past
	r := w.run(c)
	wavy("docker")
	step("docker", rollout.Progress{Elapsed: time.Hour, Hold: full})
	r.hears(h, "wave_done docker", "held docker")
	r.stop()
	step("docker", rollout.Progress{Elapsed: 2 * time.Hour, Hold: full})
	step("old", rollout.Progress{Elapsed: 2 * time.Hour, Running: true})
	r = w.run(c)
	r.hears(h, "wave_done docker", "held docker", "wave_done docker", "wave_done old")
	step("docker", rollout.Progress{Elapsed: 2*time.Hour + 1, Running: true})
	r.hears(h, "wave_done docker", "held docker", "wave_done docker", "wave_done old", "moving docker")
	if e := h.got[2]; e.Wave != 2 {
		t.Errorf("got %+v", e)
	}
}

// Neither a state that can't be read nor one that can't be written keeps it from
// telling.
func TestBadState(t *testing.T) {
	w, h := newWorld(t), newHook(t)
	c := w.load(webhook("a", h, ""))
	write(t, w.dir, StateFile, "{")
	r := w.run(c)
	w.aborts("r1", "typo")
	r.hears(h, "aborted r1")
	r.stop()
	if s, err := loadState(w.dir); err != nil || s == nil || s.Position != 1 {
		t.Errorf("got %+v, %v", s, err)
	}

	w.dir = filepath.Join(write(t, t.TempDir(), "file", ""), "dir") // can't be made
	r = w.run(c)
	w.aborts("r2", "typo")
	r.hears(h, "aborted r1", "aborted r2")
	if n := strings.Count(r.log.String(), "can't be put on disk"); n != 1 {
		t.Errorf("it was said %d times", n)
	}
}

// A bucket that was made anew begins anew.
func TestBucketIsSetBack(t *testing.T) {
	w, h := newWorld(t), newHook(t)
	c := w.load(webhook("a", h, ""))
	write(t, w.dir, StateFile, `{"position": 1000000}`)
	w.aborts("r0", "before")
	r := w.run(c)
	w.aborts("r1", "typo")
	r.hears(h, "aborted r1")
	if !strings.Contains(r.log.String(), "was set back") {
		t.Error("nothing was said of it")
	}
	info, err := os.Stat(filepath.Join(w.dir, StateFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the state's mode: %v, %v", info, err)
	}
}
