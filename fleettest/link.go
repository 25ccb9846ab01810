package fleettest

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"

	"github.com/tsunami-rollouts/tsunami/subjects"
)

// Faults says what happens to the echoes of desired state on their way to
// hosts: shares of 0 to 1, of which the first that is drawn counts.
type Faults struct {
	Lose, Double, Reorder float64
}

// echoes is the subject's start by which an echo of desired state is known.
var echoes = []byte(subjects.KindDesired.Echo("") + ".")

// mostLate is how many echoes overtake a late one, at most.
const mostLate = 20

// link is the way of one client to the broker: it can be cut and mended, and
// has faults. It is the client's nats.InProcessConnProvider.
type link struct {
	broker *embedded

	mu     sync.Mutex
	random *rand.Rand
	faults Faults
	cut    bool
	blind  bool // what consumers of the bucket deliver is held back
	conns  map[*conn]bool
	trap   chan struct{} // closed, and the link cut, when the next step is sent; nil: there is none
}

func newLink(b *embedded, seed uint64) *link {
	return &link{broker: b, random: rand.New(rand.NewPCG(seed, 1)), conns: make(map[*conn]bool)}
}

// InProcessConn dials. It fails while the link is cut or the broker is down.
func (l *link) InProcessConn() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut {
		return nil, errors.New("the link is cut")
	}
	inner, err := l.broker.dial()
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: inner, link: l, in: bufio.NewReaderSize(inner, 1<<16)}
	l.conns[c] = true
	return c, nil
}

// setCut cuts the link, so that what is under way is lost and dialling fails,
// or mends it.
func (l *link) setCut(cut bool) {
	l.mu.Lock()
	l.cut = cut
	var conns []*conn
	if cut {
		for c := range l.conns {
			conns = append(conns, c)
		}
		clear(l.conns)
	}
	l.mu.Unlock()
	for _, c := range conns {
		_ = c.Conn.Close() // a pipe's Close doesn't fail
	}
}

func (l *link) setFaults(f Faults) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults = f
}

// setBlind holds back what consumers of the bucket deliver, all of it and in
// order, or lets it come, with the next thing that comes anyway. Answers pass.
func (l *link) setBlind(blind bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.blind = blind
}

// conn passes on what the broker sends, message by message, with the link's
// faults. What the client sends passes through as it is.
type conn struct {
	net.Conn
	link *link

	// Owned by the reader.
	in    *bufio.Reader
	ready []byte
	late  []lateEcho
	held  []byte // while the link is blind
}

// lateEcho is delivered after so many more echoes.
type lateEcho struct {
	message []byte
	after   int
}

// step is what is in every step that tells somebody something.
var step = []byte("PUB " + subjects.KindDesired.Subject("") + ".")

// cutInStep cuts the link when the client next sends a step: before, in the
// midst of or after what it writes at once then. The returned channel is closed
// by that.
func (l *link) cutInStep() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trap = make(chan struct{})
	return l.trap
}

// Write sends what the client writes to the broker.
func (c *conn) Write(p []byte) (int, error) {
	l := c.link
	l.broker.access.touch()
	l.mu.Lock()
	trap := l.trap
	part := len(p)
	if trap != nil && bytes.Contains(p, step) {
		l.trap = nil
		part = []int{0, l.random.IntN(len(p)), len(p)}[l.random.IntN(3)]
	} else {
		trap = nil
	}
	l.mu.Unlock()
	n, err := c.Conn.Write(p[:part])
	if trap != nil {
		l.setCut(true)
		close(trap)
	}
	if err == nil && n < len(p) {
		err = net.ErrClosed
	}
	return n, err
}

// Close closes the connection.
func (c *conn) Close() error {
	c.link.mu.Lock()
	delete(c.link.conns, c)
	c.link.mu.Unlock()
	return c.Conn.Close()
}

// Read gives the client the next of what the broker sent.
func (c *conn) Read(p []byte) (int, error) {
	for len(c.ready) == 0 {
		line, err := c.in.ReadBytes('\n')
		if err != nil {
			return 0, err
		}
		message, subject, err := c.message(line)
		if err != nil {
			return 0, err
		}
		c.pass(message, subject)
	}
	n := copy(p, c.ready)
	c.ready = c.ready[n:]
	return n, nil
}

// pass makes a message ready, or what becomes of it.
func (c *conn) pass(message, subject []byte) {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	switch {
	case c.link.blind && bytes.HasPrefix(subject, keys):
		c.held = append(c.held, message...)
		return
	case !c.link.blind && len(c.held) > 0:
		c.ready = append(c.ready, c.held...)
		c.held = nil
	}
	if bytes.HasPrefix(subject, echoes) {
		c.deliver(message)
	} else {
		c.ready = append(c.ready, message...)
	}
}

// keys is how the subjects of the bucket's records start.
var keys = []byte(strings.TrimSuffix(subjects.AllKeys, ">"))

// message reads what belongs to a line of the protocol, and finds its subject:
// MSG and HMSG are followed by so many bytes as their last field says.
func (c *conn) message(line []byte) (message, subject []byte, err error) {
	fields := bytes.Fields(line)
	if len(fields) < 4 || !bytes.Equal(fields[0], []byte("MSG")) && !bytes.Equal(fields[0], []byte("HMSG")) {
		return line, nil, nil
	}
	n, err := strconv.Atoi(string(fields[len(fields)-1]))
	if err != nil {
		return nil, nil, err
	}
	body := make([]byte, n+2)
	if _, err := io.ReadFull(c.in, body); err != nil {
		return nil, nil, err
	}
	return append(line, body...), bytes.Clone(fields[1]), nil
}

// deliver is for echoes; the link is locked.
func (c *conn) deliver(message []byte) {
	l := c.link
	later := func() {
		c.late = append(c.late, lateEcho{message, 1 + l.random.IntN(mostLate)})
	}
	now := true
	switch x := l.random.Float64(); {
	case x < l.faults.Lose:
		now = false
	case x < l.faults.Lose+l.faults.Double:
		later()
	case x < l.faults.Lose+l.faults.Double+l.faults.Reorder:
		now = false
		later()
	}
	if now {
		c.ready = append(c.ready, message...)
	}
	kept := c.late[:0]
	for _, e := range c.late {
		if e.after--; e.after >= 0 {
			kept = append(kept, e)
		} else {
			c.ready = append(c.ready, e.message...)
		}
	}
	c.late = kept
}
