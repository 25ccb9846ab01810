package fleettest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// consume is [bus.Consume] for simulations. It promises the same and costs
// nothing while the stream is idle: bus.Consume's heartbeats and checks, six or
// seven a minute, are what two simulated weeks would otherwise be spent on. It
// relies on a broker in this process and a connection that says when it is
// lost.
func consume(ctx context.Context, js jetstream.JetStream, stream string, o bus.ConsumeOptions) (<-chan bus.Msg, error) {
	target, err := bus.LastSequence(ctx, js, stream)
	if err != nil {
		return nil, fmt.Errorf("consuming %s: %w", stream, err)
	}
	c := &consumption{
		js: js, stream: stream, options: o, target: target,
		out:    make(chan bus.Msg, 256),
		status: js.Conn().StatusChanged(nats.CONNECTED, nats.CLOSED),
	}
	sub, err := c.begin(ctx)
	if err != nil {
		js.Conn().RemoveStatusListener(c.status)
		return nil, fmt.Errorf("consuming %s: %w", stream, err)
	}
	go c.run(ctx, sub)
	return c.out, nil
}

type consumption struct {
	js      jetstream.JetStream
	stream  string
	options bus.ConsumeOptions
	out     chan bus.Msg
	status  chan nats.Status
	target  uint64 // the stream's last sequence at the start
	last    uint64 // yielded
	marked  bool
}

// feed is one subscription with the broker's consumer behind it.
type feed struct {
	sub      *nats.Subscription
	messages chan *nats.Msg
	pending  uint64 // messages that were stored when it began
	seen     uint64
}

// begin makes a consumer that goes on after the last message yielded.
func (c *consumption) begin(ctx context.Context) (*feed, error) {
	nc := c.js.Conn()
	inbox := nc.NewInbox()
	f := &feed{messages: make(chan *nats.Msg, 1<<14)}
	var err error
	if f.sub, err = nc.ChanSubscribe(inbox, f.messages); err != nil {
		return nil, err
	}
	cfg := jetstream.ConsumerConfig{
		DeliverSubject: inbox, FilterSubjects: c.options.Subjects, HeadersOnly: c.options.HeadersOnly,
		AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1,
		InactiveThreshold: time.Minute, DeliverPolicy: jetstream.DeliverAllPolicy,
	}
	switch {
	case c.last > 0:
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, c.last+1
	case c.options.LastPerSubject:
		cfg.DeliverPolicy = jetstream.DeliverLastPerSubjectPolicy
		if len(cfg.FilterSubjects) == 0 {
			cfg.FilterSubject = ">"
		}
	case c.options.Start > 0:
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, c.options.Start
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	consumer, err := c.js.CreatePushConsumer(ctx, c.stream, cfg)
	if err != nil {
		return nil, errors.Join(err, f.sub.Unsubscribe())
	}
	f.pending = consumer.CachedInfo().NumPending + consumer.CachedInfo().Delivered.Consumer
	return f, nil
}

func (c *consumption) run(ctx context.Context, f *feed) {
	defer close(c.out)
	defer c.js.Conn().RemoveStatusListener(c.status)
	for {
		again := c.read(ctx, f)
		_ = f.sub.Unsubscribe() // of a connection that is gone it has ended already
		if !again {
			return
		}
		for f = nil; f == nil; {
			var err error
			if f, err = c.begin(ctx); err == nil {
				break
			}
			if c.js.Conn().IsClosed() {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Second):
			}
		}
	}
}

// read yields what is delivered; false says that there is no going on.
func (c *consumption) read(ctx context.Context, f *feed) bool {
	yield := func(m bus.Msg) bool {
		select {
		case c.out <- m:
			return true
		case <-ctx.Done():
			return false
		}
	}
	mark := func(done bool) bool {
		if !done || c.marked {
			return true
		}
		c.marked = true
		return yield(bus.Msg{})
	}
	if !mark(f.pending == 0) {
		return false
	}
	for {
		select {
		case <-ctx.Done():
			return false
		case s, open := <-c.status:
			return open && s == nats.CONNECTED // remade: what was under way may be lost
		case m := <-f.messages:
			meta, err := m.Metadata()
			if err != nil {
				continue
			}
			if meta.Sequence.Consumer != f.seen+1 {
				return true
			}
			f.seen, c.last = meta.Sequence.Consumer, meta.Sequence.Stream
			if !yield(bus.Msg{Subject: m.Subject, Header: subjects.Header(m.Header), Data: m.Data, Sequence: c.last, Time: meta.Timestamp}) ||
				!mark(meta.NumPending == 0 || c.last >= c.target) {
				return false
			}
		}
	}
}
