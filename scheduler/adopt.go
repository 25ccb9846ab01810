package scheduler

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// adoptAtOnce is how many records of before a batch seals.
const adoptAtOnce = bus.MaxBatch / 2

// errBefore says that the bucket was written without identities, and that this
// scheduler has them: it would take every record for one put by hand.
var errBefore = errors.New("none of the bucket's records is sealed")

// adoption judges what is stored by whether identities were on when it was
// written. The fleet's first epoch, sealed, says that they were; until it is
// written, records without a seal may be adopted, where the operator says so.
func (s *scheduler) adoption(stored []bus.Msg) error {
	if s.o.Keyring == nil {
		return nil
	}
	begun, sealed, unsealed := false, 0, 0
	for _, m := range stored {
		kind, _, err := subjects.ParseKey(m.Subject)
		switch {
		case err != nil:
		case s.o.Keyring.Verify(m.Subject, m.Header, m.Data) == nil:
			sealed++
			begun = begun || kind == subjects.KindEpoch
		case ofBefore(m):
			unsealed++
		}
	}
	switch {
	case begun && s.o.Adopt:
		return errors.New("identities are on already, and records that aren't sealed were put by hand: start without --adopt")
	case sealed == 0 && unsealed > 0 && !s.o.Adopt:
		return fmt.Errorf("%w, %d were written without identities: "+
			"if identities are turned on only now, start once with --adopt, which seals them as they are; "+
			"if they were on before, somebody has replaced what the broker stores: don't", errBefore, unsealed)
	}
	s.adopting = s.o.Adopt
	return nil
}

// ofBefore says whether a scheduler without identities may have written a record.
func ofBefore(m bus.Msg) bool {
	kind, _, err := subjects.ParseKey(m.Subject)
	switch {
	case err != nil || m.Header.Get(subjects.HeaderSeal) != "" || m.Header.Get(subjects.HeaderTime) == "":
		return false
	case kind == subjects.KindAbort || kind == subjects.KindStop || kind == subjects.KindGuard || kind == subjects.KindLeader || kind == subjects.KindJoin:
		return false
	}
	return true
}

// claim notes a record of before that is to be sealed. A host's document isn't
// sealed as it is, but told anew: it has to have a newer generation.
func (s *scheduler) claim(m bus.Msg) {
	if !s.adopting || !ofBefore(m) {
		return
	}
	if host, err := subjects.HostOf(m.Subject); err == nil {
		if c, err := subjects.DecodeChange(host, m.Header, m.Data); err != nil || !c.Decommissioned {
			s.snap.PutDamaged(host)
			return
		}
	}
	s.adopted = append(s.adopted, bus.Message{
		Subject: m.Subject, Header: m.Header.Ours(), Data: m.Data, Expect: &bus.Expect{Subject: m.Subject, Sequence: m.Sequence},
	})
}

// adopt seals records of before. The epoch goes with the last of them, and says
// that it is done.
func (s *scheduler) adopt(ctx context.Context, now time.Time) error {
	n := min(len(s.adopted), adoptAtOnce)
	s.adopting = n < len(s.adopted)
	if !s.adopting {
		s.epoch = time.Time{} // due
	}
	if err := s.write(ctx, now, s.adopted[:n]...); err != nil {
		s.adopting = true
		return err
	}
	s.log.Info("sealed records of before identities were on", "records", n, "left", len(s.adopted)-n)
	s.adopted = s.adopted[n:]
	return nil
}
