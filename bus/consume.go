package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/subjects"
)

// ConsumeOptions say what to consume of a stream. The zero value is all of it,
// from the first message on.
type ConsumeOptions struct {
	// Subjects are filters that don't overlap; none means every subject.
	Subjects []string
	// LastPerSubject begins with what is the last on each subject. Beginning
	// anew after a fault it may yield older records too, in order.
	LastPerSubject bool
	// Start is the sequence to begin at; 0 means the first. It can't be
	// combined with LastPerSubject.
	Start uint64
	// HeadersOnly leaves the bodies out.
	HeadersOnly bool
	// Buffer is how many messages the channel holds; 0 means 256. At most as
	// many again wait in the client.
	Buffer int
	// Heartbeat is how often the broker says that it is there when it has no
	// messages; two missed ones make a new consumer. 0 means 10 s, 30 s is the
	// most. A lost connection is noticed without it.
	Heartbeat time.Duration
	// Logger is told about restarts of the consumer. Nil discards.
	Logger *slog.Logger
}

const (
	defaultBuffer = 256
	// consumerIdle is how long the broker keeps a consumer whose reader is gone.
	consumerIdle = 5 * time.Minute
	// defaultHeartbeat finds a dead consumer on a live connection within 20 s.
	defaultHeartbeat = 10 * time.Second
	// maxHeartbeat is the client library's limit.
	maxHeartbeat = 30 * time.Second
	// pullExpiry is how long one request for messages stands.
	pullExpiry = 2 * time.Minute
	// recheck is how often an idle consumer's count of what it delivered is
	// compared with what came.
	recheck = time.Minute
)

// Consume yields a stream's messages in stream order, without gaps or
// duplicates, over reconnects and restarts of the broker, for as long as ctx
// lives. The channel first yields what is stored; a Msg with Subject "" marks
// "caught up with what was stored at the start", exactly once, for a stream
// that holds nothing too. A reader that is slow holds the broker back and uses
// no more memory.
//
// The channel is closed when ctx ends, when the connection is closed for good,
// or when the stream turns out to have been set back (made anew or restored,
// so that its last sequence is before what was yielded already): everything
// built on what was read is void then. A reader for whom ctx hasn't ended
// treats a closed channel as a failure.
//
// Consume returns an error where the stream or the broker isn't there at the
// start.
func Consume(ctx context.Context, js jetstream.JetStream, stream string, o ConsumeOptions) (<-chan Msg, error) {
	if o.LastPerSubject && o.Start > 0 {
		return nil, fmt.Errorf("consuming %s: the last of each subject has no start", stream)
	}
	if o.Buffer <= 0 {
		o.Buffer = defaultBuffer
	}
	if o.Heartbeat <= 0 {
		o.Heartbeat = defaultHeartbeat
	}
	o.Heartbeat = min(o.Heartbeat, maxHeartbeat)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	c := &consumption{
		js: js, stream: stream, options: o, out: make(chan Msg, o.Buffer),
		logger: o.Logger.With("stream", stream),
		status: js.Conn().StatusChanged(nats.CONNECTED, nats.CLOSED),
	}
	target, err := LastSequence(ctx, js, stream)
	if err == nil {
		c.target = target
		err = c.begin(ctx)
	}
	if err != nil {
		js.Conn().RemoveStatusListener(c.status)
		return nil, fmt.Errorf("consuming %s: %w", stream, err)
	}
	go c.run(ctx)
	return c.out, nil
}

// consumption is owned by the goroutine that runs it.
type consumption struct {
	js      jetstream.JetStream
	stream  string
	options ConsumeOptions
	logger  *slog.Logger
	out     chan Msg
	status  chan nats.Status

	consumer  jetstream.Consumer
	delivered uint64 // the consumer's own count of what it delivered
	last      uint64 // stream sequence of the last message yielded
	target    uint64 // the stream's last sequence at the start
	caughtUp  bool
}

// errSetBack says that the stream's end is before what was yielded.
var errSetBack = errors.New("the stream was set back")

// begin makes a consumer that goes on after the last message yielded.
func (c *consumption) begin(ctx context.Context) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	cfg := jetstream.ConsumerConfig{
		Description:       "Tsunami",
		FilterSubjects:    c.options.Subjects,
		HeadersOnly:       c.options.HeadersOnly,
		AckPolicy:         jetstream.AckNonePolicy,
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: consumerIdle,
		DeliverPolicy:     jetstream.DeliverAllPolicy,
	}
	switch {
	case c.last > 0:
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, c.last+1
		end, err := LastSequence(ctx, c.js, c.stream)
		if err != nil {
			return err
		}
		if end < c.last {
			return fmt.Errorf("%w: its last sequence is %d, %d was read", errSetBack, end, c.last)
		}
	case c.options.LastPerSubject:
		cfg.DeliverPolicy = jetstream.DeliverLastPerSubjectPolicy
		if len(cfg.FilterSubjects) == 0 {
			cfg.FilterSubjects = []string{">"}
		}
	case c.options.Start > 0:
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, c.options.Start
	}
	consumer, err := c.js.CreateConsumer(ctx, c.stream, cfg)
	if err != nil {
		return err
	}
	c.consumer, c.delivered = consumer, 0
	return nil
}

// discard removes a consumer that isn't read any more. The broker would do so
// by itself after a while.
func (c *consumption) discard(consumer jetstream.Consumer) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := c.js.DeleteConsumer(ctx, c.stream, consumer.CachedInfo().Name); err != nil {
		c.logger.Debug("a consumer is left to the broker to remove", "err", err)
	}
}

func (c *consumption) run(ctx context.Context) {
	defer close(c.out)
	defer c.js.Conn().RemoveStatusListener(c.status)
	for {
		err := c.read(ctx)
		if ctx.Err() != nil {
			c.discard(c.consumer)
			return
		}
		c.logger.Debug("consuming is begun again", "err", err, "sequence", c.last)
		if !c.again(ctx) {
			return
		}
	}
}

// again replaces the consumer, trying until that succeeds; false says that
// there is no going on.
func (c *consumption) again(ctx context.Context) bool {
	old := c.consumer
	for round := 1; ; round++ {
		c.drainStatus()
		err := c.begin(ctx)
		switch {
		case err == nil:
			c.discard(old)
			return true
		case errors.Is(err, errSetBack), errors.Is(err, nats.ErrConnectionClosed):
			c.logger.Error("consuming ended", "err", err)
			return false
		case ctx.Err() != nil:
			return false
		}
		c.logger.Debug("can't consume yet", "err", err)
		select {
		case <-ctx.Done():
			return false
		case <-c.status: // reconnected: try at once
		case <-time.After(backoff(round)):
		}
	}
}

// drainStatus forgets the news that was there before the consumer is made.
func (c *consumption) drainStatus() {
	for {
		select {
		case _, open := <-c.status:
			if !open {
				return
			}
		default:
			return
		}
	}
}

// yield sends to the reader; it fails when ctx ends.
func (c *consumption) yield(ctx context.Context, m Msg) error {
	select {
	case c.out <- m:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// mark yields the mark, once.
func (c *consumption) mark(ctx context.Context) error {
	if c.caughtUp {
		return nil
	}
	c.caughtUp = true
	return c.yield(ctx, Msg{})
}

// errors for which the consumer is replaced.
var (
	errGap       = errors.New("the consumer skipped a message")
	errReconnect = errors.New("the connection was remade")
)

// read yields what the consumer delivers, until it can't be trusted any more.
func (c *consumption) read(ctx context.Context) error {
	if c.consumer.CachedInfo().NumPending == 0 {
		if err := c.mark(ctx); err != nil {
			return err
		}
	}
	messages, err := c.consumer.Messages(
		jetstream.PullMaxMessages(c.options.Buffer),
		jetstream.PullExpiry(pullExpiry),
		jetstream.PullHeartbeat(c.options.Heartbeat),
	)
	if err != nil {
		return err
	}
	defer messages.Stop()

	// A remade connection may have swallowed messages that the broker counts as
	// delivered; if they were the last ones, no later one would show the gap.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watched := make(chan struct{})
	defer func() { cancel(nil); <-watched }()
	go func() {
		defer close(watched)
		select {
		case <-c.status:
			cancel(errReconnect)
		case <-ctx.Done():
		}
	}()

	var missing bool
	for {
		wait, done := context.WithTimeout(ctx, recheck)
		m, err := messages.Next(jetstream.NextContext(wait))
		done()
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, context.DeadlineExceeded):
			if missing, err = c.check(ctx, missing); err != nil {
				return err
			}
			continue
		case err != nil:
			return err
		}
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		if meta.Sequence.Consumer != c.delivered+1 {
			return errGap
		}
		if err := c.yield(ctx, Msg{
			Subject: m.Subject(), Header: subjects.Header(m.Headers()), Data: m.Data(),
			Sequence: meta.Sequence.Stream, Time: meta.Timestamp,
		}); err != nil {
			return context.Cause(ctx)
		}
		missing = false
		c.delivered, c.last = meta.Sequence.Consumer, meta.Sequence.Stream
		if meta.NumPending == 0 || c.last >= c.target {
			if err := c.mark(ctx); err != nil {
				return err
			}
		}
	}
}

// check asks the broker, when nothing came for a while, how much the consumer
// has delivered. A message may be on its way, so it takes two looks.
func (c *consumption) check(ctx context.Context, missing bool) (bool, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	info, err := c.consumer.Info(ctx)
	if err != nil {
		return false, err
	}
	if info.Delivered.Consumer > c.delivered {
		if missing {
			return false, errGap
		}
		return true, nil
	}
	if info.NumPending == 0 {
		return false, c.mark(ctx)
	}
	return false, nil
}
