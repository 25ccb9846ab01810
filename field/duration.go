package field

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is a time.Duration that is written as Prometheus does: 2w, 1d12h,
// 90s, 250ms.
type Duration time.Duration

var units = []struct {
	name string
	size time.Duration
}{
	{"w", 7 * 24 * time.Hour}, {"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}, {"ms", time.Millisecond},
}

// ParseDuration reads a duration such as 2w, 36h or 1h30m: whole numbers with
// the units w, d, h, m, s, ms, each at most once and the larger first.
func ParseDuration(s string) (Duration, error) {
	bad := fmt.Errorf("%q isn't a duration: want whole numbers with the units w d h m s ms, such as 2w, 36h or 1h30m", Shorten(s))
	rest, total, last := s, time.Duration(0), -1
	if rest == "0" {
		return 0, nil
	}
	for rest != "" {
		i := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
		if i <= 0 {
			return 0, bad
		}
		n, err := strconv.ParseInt(rest[:i], 10, 64)
		if err != nil {
			return 0, bad
		}
		rest = rest[i:]
		j := strings.IndexFunc(rest, func(r rune) bool { return r >= '0' && r <= '9' })
		if j < 0 {
			j = len(rest)
		}
		found := -1
		for k, u := range units {
			if u.name == rest[:j] {
				found = k
			}
		}
		if found <= last {
			return 0, bad
		}
		size := units[found].size
		if n > (math.MaxInt64-int64(total))/int64(size) {
			return 0, fmt.Errorf("%q is too long a duration", Shorten(s))
		}
		total += time.Duration(n) * size
		last, rest = found, rest[j:]
	}
	if s == "" {
		return 0, bad
	}
	return Duration(total), nil
}

// String writes the duration so that ParseDuration reads it back, to the
// millisecond.
func (d Duration) String() string {
	left := time.Duration(d)
	if left < time.Millisecond {
		return "0s"
	}
	var b strings.Builder
	for _, u := range units {
		if n := left / u.size; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, u.name)
			left %= u.size
		}
	}
	return b.String()
}

// MarshalText writes what UnmarshalText reads.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads a duration such as 2w.
func (d *Duration) UnmarshalText(b []byte) (err error) {
	*d, err = ParseDuration(string(b))
	return err
}
