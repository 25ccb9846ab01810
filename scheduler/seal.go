package scheduler

import (
	"bytes"
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

// dueEpoch is the epoch's record, where identities are on and it is time.
func (s *scheduler) dueEpoch(now time.Time) ([]bus.Message, error) {
	if s.o.Signer == nil || now.Sub(s.epoch) < epochEvery {
		return nil, nil
	}
	body, err := subjects.Encode(subjects.Epoch{Time: now.UTC()})
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
				if m.Expect != nil && m.Expect.Subject == m.Subject {
					m.Header[subjects.HeaderFollows] = []string{strconv.FormatUint(m.Expect.Sequence, 10)}
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

// attest takes from a record that no scheduler of the fleet has sealed what
// marks it as a scheduler's; it is then one that was put by hand, whatever it
// says. So is a sealed one that was written over another revision of its key
// than was there: an old record that somebody has written again. Only where
// every revision is seen, live, can that be known. Without identities every
// record is believed.
func (s *scheduler) attest(m bus.Msg, live bool) bus.Msg {
	if s.o.Keyring == nil {
		return m
	}
	// What was sealed here a moment ago needs no verifying, if it has stayed the
	// same: a step would otherwise take twice as long.
	var err error
	ours, known := s.ours[m.Header.Get(subjects.HeaderSeal)]
	if !known || !bytes.Equal(ours, subjects.Sealed(subjects.SealRecord, m.Subject, m.Header, m.Data)) {
		err = s.o.Keyring.Verify(m.Subject, m.Header, m.Data)
	}
	follows := m.Header.Get(subjects.HeaderFollows)
	again := live && follows != "" && follows != strconv.FormatUint(s.revisions[m.Subject], 10)
	if err != nil || again {
		m.Header = m.Header.Unmarked()
	}
	return m
}
