package rollout

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// Two approvals are two people's, and neither is the author's.
func TestTwoApprovalsAreOfTwoOthers(t *testing.T) {
	f := even(t, 5, "web")
	s := spec("up", "2", time.Hour)
	s.Approvals = 2
	f.mustStart(s)
	author := f.rollouts["up"].Author
	refuses := func(by ID, part string) {
		t.Helper()
		_, err := f.snap.Approve("up", by, "fine", f.now)
		if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %v, want %q", by, err, part)
		}
	}
	refuses(author, "somebody else has to approve it")
	f.operate(f.snap.Approve("up", "bob", "fine", f.now))
	refuses("bob", "it takes another operator")
	f.advance(2 * time.Hour)
	if n := f.count("2"); n > 0 {
		t.Fatalf("%d hosts were told after one approval of two", n)
	}
	refuses(author, "somebody else has to approve it")
	f.operate(f.snap.Approve("up", "carol", "fine too", f.now))
	f.advance(3 * time.Hour)
	f.want("up", StateCompleted)
}
