package scheduler

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

const (
	// epochEvery is how old an epoch is renewed: often enough for hosts to miss
	// a few before theirs is no longer fresh.
	epochEvery = time.Minute
	// sealRoom is kept free in a record's header for its seal.
	sealRoom = 512
)

// dueEpoch is the epoch's record, where identities are on and it is time. It
// carries the leaders' clock, which nobody else can set forward then.
func (s *scheduler) dueEpoch(led time.Duration, now time.Time) ([]bus.Message, error) {
	if s.o.Signer == nil || s.adopting || now.Sub(s.epoch) < epochEvery {
		return nil, nil
	}
	body, err := subjects.Encode(subjects.Epoch{Time: now.UTC(), Led: led})
	if err != nil {
		return nil, err
	}
	return []bus.Message{{Subject: subjects.KindEpoch.Subject(""), Header: written(rollout.Scheduler, now), Data: body}}, nil
}

// seal seals records that are about to be written. A signature takes tens of
// microseconds, and a step has hundreds, so all processors share them.
func (s *scheduler) seal(records []bus.Message) []bus.Message {
	if s.o.Signer == nil {
		return records
	}
	workers := min(runtime.GOMAXPROCS(0), len(records))
	signed := make([][]byte, len(records))
	var wg sync.WaitGroup
	for first := range workers {
		wg.Go(func() {
			for i := first; i < len(records); i += workers {
				m := &records[i]
				if chained(m.Subject) {
					m.Header[subjects.HeaderFollows] = []string{strconv.FormatUint(s.revisions[m.Subject], 10)}
				}
				signed[i] = s.o.Signer.Seal(m.Subject, m.Header, m.Data)
			}
		})
	}
	wg.Wait()
	clear(s.ours)
	for i := range records {
		s.ours[records[i].Header.Get(subjects.HeaderSeal)] = signed[i]
	}
	return records
}

// chained says whether the key's sealed records say which revision they were
// written over. Hosts' documents are numbered instead, and there are too many of
// them to read their history at every start.
func chained(subject string) bool {
	kind, _, err := subjects.ParseKey(subject)
	return err == nil && kind != subjects.KindDesired
}

// attest takes from a record that no scheduler of the fleet has sealed what
// marks it as a scheduler's; it is then one that was put by hand, whatever it
// says. So is a sealed one that was written over another revision of its key
// than the one before it: an old record that somebody has written again.
// Without identities every record is believed.
func (s *scheduler) attest(m bus.Msg, before uint64) bus.Msg {
	if s.o.Keyring == nil || s.adopting && !s.loaded && ofBefore(m) {
		return m
	}
	// What was sealed here a moment ago needs no verifying, if it has stayed the
	// same: a step would otherwise take twice as long.
	var err error
	ours, known := s.ours[m.Header.Get(subjects.HeaderSeal)]
	if !known || !bytes.Equal(ours, subjects.Sealed(subjects.SealRecord, m.Subject, m.Header, m.Data)) {
		err = s.o.Keyring.Verify(m.Subject, m.Header, m.Data)
	}
	if err != nil || chained(m.Subject) && m.Header.Get(subjects.HeaderFollows) != strconv.FormatUint(before, 10) {
		m.Header = m.Header.Unmarked()
	}
	return m
}

// recall notes of what is stored which revision of its key is before it, as
// attest wants to know.
func (s *scheduler) recall(ctx context.Context, stored []bus.Msg) error {
	if s.o.Keyring == nil {
		return nil
	}
	newest := make(map[string]uint64, len(stored))
	for _, m := range stored {
		newest[m.Subject] = m.Sequence
	}
	o := bus.ConsumeOptions{HeadersOnly: true}
	for _, k := range []subjects.Kind{
		subjects.KindRollout, subjects.KindProgress, subjects.KindVariable, subjects.KindObjective,
		subjects.KindBlackout, subjects.KindPin, subjects.KindStop, subjects.KindEpoch,
	} {
		o.Subjects = append(o.Subjects, k.Pattern())
	}
	return s.each(ctx, o, func(m bus.Msg) {
		if m.Sequence < newest[m.Subject] {
			s.revisions[m.Subject] = m.Sequence
		}
	})
}

// setBack finds the hosts that have applied a newer document than their last
// one in the bucket: somebody wrote an old one again, which bears its seal as it
// did then. The newest that is sealed counts, and is put back.
func (s *scheduler) setBack(ctx context.Context) error {
	if s.o.Keyring == nil {
		return nil
	}
	newest := map[string]*subjects.Change{}
	o := bus.ConsumeOptions{}
	for _, name := range s.snap.Hosts() {
		h, err := s.snap.Host(name)
		if err == nil && h.Desired != nil && h.Report.Generation > h.Desired.Generation {
			subject := subjects.KindDesired.Subject(string(name))
			newest[subject], o.Subjects = nil, append(o.Subjects, subject)
		}
	}
	if len(newest) == 0 {
		return nil
	}
	if len(o.Subjects) > 100 { // as many as the broker's list of a consumer's subjects may well be
		o.Subjects = []string{subjects.KindDesired.Pattern()}
	}
	err := s.each(ctx, o, func(m bus.Msg) {
		best, ask := newest[m.Subject]
		host, err := subjects.HostOf(m.Subject)
		if !ask || err != nil {
			return
		}
		m = s.attest(m, 0)
		if c, err := subjects.DecodeChange(host, m.Header, m.Data); err == nil && (best == nil || c.Desired.Generation > best.Desired.Generation) {
			newest[m.Subject] = c
		}
	})
	for _, c := range newest {
		if c == nil {
			continue
		}
		if told, _ := s.desired(c.Host); c.Desired.Generation > told && !c.Decommissioned {
			s.snap.PutDesired(c.Host, &c.Desired)
			s.snap.PutDamaged(c.Host)
			s.problem(subjects.KindDesired.Key(string(c.Host)), fmt.Sprintf("an older document, of generation %d, was written again by hand; put back as it was", told))
		}
	}
	return err
}

// each reads what the bucket holds of some keys, every revision of them.
func (s *scheduler) each(ctx context.Context, o bus.ConsumeOptions, take func(bus.Msg)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	in, err := s.o.Consume(ctx, s.js, subjects.Stream, o)
	if err != nil {
		return err
	}
	for m := range in {
		if m.Subject == "" {
			return nil
		}
		take(m)
	}
	return cmp.Or(ctx.Err(), errClosed)
}
