package fleettest

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// model is all light hosts of a fleet: one goroutine, one connection, one
// subscription. A light host does what the wire asks of an agent and nothing
// else: it hears echoes, re-reads, takes what has a higher generation, and
// confirms it after a while. It knows no enactors, files or checks; the real
// agent, for shorter scripts, does.
type model struct {
	options Options
	random  *rand.Rand
	nc      *nats.Conn
	js      jetstream.JetStream

	heard    chan *nats.Msg
	up       chan struct{}
	commands chan func()
	done     chan struct{}

	hosts map[rollout.Host]*light
	queue todo
	fail  func(error)
}

// light is one light host. Its fields belong to the model's goroutine.
type light struct {
	name   rollout.Host
	report rollout.Report
	want   *rollout.Desired // taken
	off    bool             // its machine is off
	cut    bool             // it can't reach the broker
	hung   bool             // its enactors never end
	unsent bool             // the report has news
}

// deed is what a host does at a time.
type deed struct {
	at   time.Time
	n    int // breaks ties by age
	host *light
	do   func(h *light)
}

type todo struct {
	deeds []deed
	count int
}

func (q *todo) Len() int { return len(q.deeds) }
func (q *todo) Less(i, j int) bool {
	return cmp.Or(q.deeds[i].at.Compare(q.deeds[j].at), cmp.Compare(q.deeds[i].n, q.deeds[j].n)) < 0
}
func (q *todo) Swap(i, j int) { q.deeds[i], q.deeds[j] = q.deeds[j], q.deeds[i] }
func (q *todo) Push(x any)    { q.deeds = append(q.deeds, x.(deed)) }
func (q *todo) Pop() any {
	last := len(q.deeds) - 1
	x := q.deeds[last]
	q.deeds = q.deeds[:last]
	return x
}

func newModel(o Options, l *link, fail func(error)) (*model, error) {
	m := &model{
		options: o, fail: fail,
		random: rand.New(rand.NewPCG(o.Seed, 2)),
		heard:  make(chan *nats.Msg, 1<<14), up: make(chan struct{}, 1),
		commands: make(chan func()), done: make(chan struct{}),
		hosts: make(map[rollout.Host]*light),
	}
	var err error
	m.nc, err = bus.Connect(bus.ConnectOptions{InProcess: l, Name: "light hosts", PingInterval: seldom, Reconnected: func() {
		select {
		case m.up <- struct{}{}:
		default:
		}
	}})
	if err != nil {
		return nil, err
	}
	if m.js, err = jetstream.New(m.nc); err != nil {
		return nil, err
	}
	if _, err = m.nc.ChanSubscribe(subjects.KindDesired.Echo(">"), m.heard); err != nil {
		return nil, fmt.Errorf("listening for echoes: %w", err)
	}
	go m.run()
	return m, nil
}

// do runs f on the model's goroutine and waits for it.
func (m *model) do(f func()) {
	var wait sync.WaitGroup
	wait.Add(1)
	m.commands <- func() { defer wait.Done(); f() }
	wait.Wait()
}

func (m *model) close() {
	close(m.commands)
	<-m.done
	m.nc.Close()
}

func (m *model) run() {
	defer close(m.done)
	timer := time.NewTimer(seldom)
	defer timer.Stop()
	for {
		for now := time.Now(); m.queue.Len() > 0 && !m.queue.deeds[0].at.After(now); {
			d := heap.Pop(&m.queue).(deed)
			d.do(d.host)
		}
		next := seldom
		if m.queue.Len() > 0 {
			next = time.Until(m.queue.deeds[0].at)
		}
		timer.Reset(next)
		select {
		case f, open := <-m.commands:
			if !open {
				return
			}
			f()
		case msg := <-m.heard:
			m.hear(msg)
		case <-m.up:
			for _, h := range m.hosts {
				m.connected(h)
			}
		case <-timer.C:
		}
	}
}

func (m *model) later(d time.Duration, h *light, do func(h *light)) {
	m.queue.count++
	heap.Push(&m.queue, deed{time.Now().Add(d), m.queue.count, h, do})
}

// slotted gives d, up to a tenth more or less, and so that it ends on one of the
// 24 moments in a period at which hosts do what they do regularly: what they
// cost is mostly that the broker, asleep, is woken.
func (m *model) slotted(d time.Duration) time.Duration {
	slot := d / 24
	return time.Until(time.Now().Add(m.jittered(d)).Truncate(slot).Add(slot))
}

// jittered gives d, up to a tenth more or less.
func (m *model) jittered(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*m.random.Float64()))
}

// add switches a new host on.
func (m *model) add(name rollout.Host, role rollout.Word, labels map[rollout.Word]rollout.Word, actual rollout.Document) {
	m.do(func() {
		h := &light{name: name, report: rollout.Report{Role: role, Labels: labels, Actual: maps.Clone(actual), Enact: map[rollout.Name]rollout.Enact{}, Version: "light"}}
		m.hosts[name] = h
		m.boot(h)
		// Hosts beat and read at times of their own.
		m.later(time.Duration(m.random.Float64()*float64(m.options.Heartbeat)), h, m.beats)
		m.later(time.Duration(m.random.Float64()*float64(m.options.Reread)), h, m.rereads)
		m.later(time.Duration(m.random.Float64()*float64(m.options.Republish)), h, m.republishes)
	})
}

func (m *model) boot(h *light) {
	h.off = false
	h.report.Boot = fmt.Sprintf("%016x", m.random.Uint64())
	h.unsent = true
	m.connected(h)
}

func (m *model) connected(h *light) {
	m.beat(h)
	m.read(h)
	m.send(h)
}

func (h *light) reachable() bool { return !h.off && !h.cut }

// beats beats, and goes on doing so.
func (m *model) beats(h *light) {
	m.beat(h)
	m.later(m.slotted(m.options.Heartbeat), h, m.beats)
}

func (m *model) beat(h *light) {
	if h.reachable() && m.nc.IsConnected() {
		_ = m.nc.Publish(subjects.Alive(h.name), []byte(h.report.Boot)) // a lost heartbeat is one
	}
}

func (m *model) rereads(h *light) {
	m.read(h)
	m.later(m.slotted(m.options.Reread), h, m.rereads)
}

func (m *model) republishes(h *light) {
	h.unsent = true
	m.send(h)
	m.later(m.slotted(m.options.Republish), h, m.republishes)
}

// read asks the broker for the host's document.
func (m *model) read(h *light) {
	if !h.reachable() || !m.nc.IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	msg, err := bus.DirectGet(ctx, m.nc, subjects.DirectGetDesired(h.name))
	if err == nil {
		m.take(h, msg.Header, msg.Data)
	} else if !errors.Is(err, bus.ErrNotFound) {
		m.later(m.jittered(10*time.Second), h, m.read)
	}
}

func (m *model) hear(msg *nats.Msg) {
	name, err := subjects.HostOf(msg.Subject)
	if err != nil {
		return
	}
	if h := m.hosts[name]; h != nil && h.reachable() {
		m.take(h, subjects.Header(msg.Header), msg.Data)
	}
}

// take takes a document, from wherever it comes, if it is newer.
func (m *model) take(h *light, header subjects.Header, body []byte) {
	c, err := subjects.DecodeChange(h.name, header, body)
	if err != nil || c.Decommissioned || c.Desired.Generation <= h.report.Generation {
		return
	}
	h.want = &c.Desired
	h.report.Generation = c.Desired.Generation
	for name, v := range c.Desired.Values {
		status := rollout.Enact{Status: rollout.Enacting, Generation: c.Desired.Told[name].Generation}
		if v.Matches(h.report.Actual[name]) {
			status.Status = rollout.Enacted
		}
		h.report.Enact[name] = status
	}
	h.unsent = true
	for name := range h.report.Enact {
		if _, ok := c.Desired.Values[name]; !ok {
			delete(h.report.Enact, name)
		}
	}
	takes := m.options.Confirm
	if !m.options.Exact {
		takes = time.Duration((0.5 + m.random.Float64()) * float64(takes))
	}
	m.later(takes, h, m.enact)
}

// enact makes the document true, and says so.
func (m *model) enact(h *light) {
	if h.off || h.want == nil {
		return
	}
	if !h.hung {
		for name, v := range h.want.Values {
			if h.report.Enact[name].Status != rollout.Enacted {
				h.report.Actual[name] = v
				h.report.Enact[name] = rollout.Enact{Status: rollout.Enacted, Generation: h.want.Told[name].Generation}
				h.unsent = true
			}
		}
	}
	m.send(h)
}

// send publishes the report if there is news, until the broker has it.
func (m *model) send(h *light) {
	if !h.unsent || !h.reachable() || !m.nc.IsConnected() {
		return // again when it is back
	}
	body, err := subjects.Encode(h.report)
	if err != nil {
		m.fail(err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if _, err := m.js.Publish(ctx, subjects.HostSubject(h.name), body, jetstream.WithRetryAttempts(0)); err != nil {
		m.later(m.jittered(10*time.Second), h, m.send)
		return
	}
	h.unsent = false
}

// change changes a host on the model's goroutine; false says that there is no
// such light host.
func (m *model) change(name rollout.Host, f func(h *light)) bool {
	found := false
	m.do(func() {
		if h := m.hosts[name]; h != nil {
			found = true
			f(h)
		}
	})
	return found
}

func (m *model) setCut(name rollout.Host, cut bool) bool {
	return m.change(name, func(h *light) {
		h.cut = cut
		m.connected(h)
	})
}

func (m *model) setHung(name rollout.Host, hung bool) bool {
	return m.change(name, func(h *light) {
		h.hung = hung
		m.enact(h)
	})
}

// switchOff takes a host's machine away, switchOn brings it back with all that
// it had on its disk.
func (m *model) switchOff(name rollout.Host) bool {
	return m.change(name, func(h *light) { h.off = true })
}

func (m *model) switchOn(name rollout.Host) bool {
	return m.change(name, func(h *light) {
		m.boot(h)
		m.enact(h)
	})
}

// actual lists what the hosts that are on run of a variable.
func (m *model) actual(variable rollout.Name) map[rollout.Host]string {
	out := make(map[rollout.Host]string)
	m.do(func() {
		for name, h := range m.hosts {
			if !h.off {
				out[name] = h.report.Actual[variable].Text()
			}
		}
	})
	return out
}
