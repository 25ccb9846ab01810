package bench

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/broker"
	"github.com/tsunami-rollouts/tsunami/rollout"
)

// BenchmarkStep commits steps of one host and of 490 through bus.Commit, and in
// turns publishes the same messages to the same stream plainly, neither fenced
// nor atomic. The floor is pipelined, as fast as the client can; single-ms is
// one message after the other, which is how a scheduler without batches would
// have to write if it wanted to know where it stopped.
func BenchmarkStep(b *testing.B) {
	for _, k := range []int{1, 490} {
		b.Run(fmt.Sprintf("hosts=%d", k), func(b *testing.B) {
			r := newRig(b, broker.Options{}, true)
			hosts := fleet(20_000)
			var s stepper
			// next gives the hosts whose turn it is, and they a next generation.
			at := 0
			next := func() []rollout.Host {
				if at+k > len(hosts) {
					at = 0
				}
				at += k
				s.generation++
				return hosts[at-k : at]
			}
			var step, pipelined, single []time.Duration
			for b.Loop() {
				b.StopTimer()
				msgs := s.step(b, next())
				b.StartTimer()
				start := time.Now()
				s.commit(b, r.js, msgs)
				step = append(step, time.Since(start))
				b.StopTimer()

				plain := plainly(s.step(b, next()))
				start = time.Now()
				s.leader = publishAll(b, r.js, plain)
				pipelined = append(pipelined, time.Since(start))

				// Its time is in proportion, so a few will do.
				plain = plainly(s.step(b, next()))[:min(k+2, 12)]
				start = time.Now()
				for i, m := range plain {
					ack, err := r.js.PublishMsg(b.Context(), m)
					if err != nil {
						b.Fatal(err)
					}
					if i == 0 {
						s.leader = ack.Sequence
					}
				}
				single = append(single, time.Since(start)*time.Duration(k+2)/time.Duration(len(plain)))
				b.StartTimer()
			}
			report(b, step, pipelined)
			b.ReportMetric(millis(median(single)), "single-ms")
			b.ReportMetric(1/median(step).Seconds(), "steps/s")
			b.ReportMetric(float64(k)/median(step).Seconds(), "hosts/s")
		})
	}
}

// publishAll publishes without waiting in between, and returns the sequence of
// the first when all are acknowledged.
func publishAll(b *testing.B, js jetstream.JetStream, msgs []*nats.Msg) uint64 {
	b.Helper()
	acks := make([]jetstream.PubAckFuture, len(msgs))
	for i, m := range msgs {
		var err error
		if acks[i], err = js.PublishMsgAsync(m); err != nil {
			b.Fatal(err)
		}
	}
	var first uint64
	for i, f := range acks {
		select {
		case ack := <-f.Ok():
			if i == 0 {
				first = ack.Sequence
			}
		case err := <-f.Err():
			b.Fatal(err)
		case <-time.After(patience):
			b.Fatal("never: the broker's acknowledgement")
		}
	}
	return first
}
