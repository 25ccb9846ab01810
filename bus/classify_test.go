package bus

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

func TestClassify(t *testing.T) {
	for _, tt := range []struct {
		code       jetstream.ErrorCode
		text       string
		committing bool
		want       error
	}{
		{10071, "wrong last sequence: 7", true, ErrRefused},
		{10164, "wrong last sequence: 7", true, ErrRefused},
		{10164, "wrong last sequence", true, ErrInFlight},
		{10077, "no space left on device", true, ErrUnknown},
		{10023, "insufficient resources", false, ErrNotWritten},
		{10023, "insufficient resources", true, ErrUnknown},
		{10176, "atomic publish batch is incomplete", true, ErrNotWritten},
	} {
		api := &jetstream.APIError{ErrorCode: tt.code, Description: tt.text}
		err := classify(api, tt.committing)
		for _, is := range []error{ErrRefused, ErrInFlight, ErrUnknown} {
			if errors.Is(err, is) != (tt.want == is) {
				t.Errorf("%d %q: %v, want %v", tt.code, tt.text, err, tt.want)
			}
		}
		if errors.Is(err, ErrNotWritten) == errors.Is(err, ErrUnknown) || !errors.Is(err, api) {
			t.Errorf("%d %q: %v", tt.code, tt.text, err)
		}
	}
}

func TestBackoff(t *testing.T) {
	for rounds, top := range map[int]time.Duration{0: minBackoff, 1: minBackoff, 2: 2 * minBackoff, 4: 8 * minBackoff, 6: maxBackoff, 1 << 40: maxBackoff} {
		seen := map[time.Duration]bool{}
		for range 100 {
			d := backoff(rounds)
			seen[d] = true
			if d < top/2 || d > top {
				t.Fatalf("after %d rounds: %s, want %s to %s", rounds, d, top/2, top)
			}
		}
		if len(seen) < 50 {
			t.Errorf("after %d rounds: %d pauses in 100, want jitter", rounds, len(seen))
		}
	}
}
