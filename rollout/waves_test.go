package rollout

import (
	"testing"
	"time"
)

func TestWavesDone(t *testing.T) {
	hour := Duration(time.Hour)
	r := Record{Clock: time.Unix(1, 0), Spec: Spec{Ramp: Ramp{Shape: Waves, Waves: []Wave{{Percent: 10, Hold: hour}, {Percent: 50}, {Percent: 60, Hold: hour}, {Percent: 100}}}}}
	for _, c := range []struct {
		elapsed time.Duration
		want    int
	}{
		{0, 0}, {time.Hour - 2, 0},
		{time.Hour - 1, 2}, // the clock stands before the next place; the second wave holds for no time
		{time.Hour, 2}, {2*time.Hour - 2, 2}, {2*time.Hour - 1, 3}, {2 * time.Hour, 3}, {1000 * time.Hour, 3},
	} {
		if got := r.WavesDone(c.elapsed); got != c.want {
			t.Errorf("at %s: %d, want %d", c.elapsed, got, c.want)
		}
	}
	// The clock of a ramp with windows runs for another time than is written.
	r.Length = 20 * time.Minute
	if got := r.WavesDone(10*time.Minute + 1); got != 2 {
		t.Errorf("scaled: %d", got)
	}
	r.Clock = time.Time{}
	if got := r.WavesDone(time.Hour); got != 0 {
		t.Errorf("before the clock started: %d", got)
	}
	r.Clock, r.Spec.Ramp = time.Unix(1, 0), Ramp{Over: hour}
	if got := r.WavesDone(time.Hour); got != 0 {
		t.Errorf("without waves: %d", got)
	}
}
