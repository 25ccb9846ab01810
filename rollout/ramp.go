package rollout

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"slices"
	"strings"
	"time"
)

// golden is the fractional part of the golden ratio: frac(u + k·golden) is the
// low-discrepancy sequence of Weyl, as even over [0,1) as a sequence can be
// that doesn't know its length.
const golden = 0.6180339887498949

// target is T of design.md §6: how many of n matching hosts of one role the
// rollout is to change. The epsilon keeps 1.14 % of 2,500, which is 28.5, from
// being a little less.
func target(n int, percent Percent, l *Limit) int {
	t := int(math.Floor(float64(percent)*float64(n)/100 + 0.5 + 1e-9)) // half up
	if l != nil {
		t = max(t, l.AtLeast)
		if l.AtMost != nil {
			t = min(t, *l.AtMost)
		}
	}
	return min(n, t)
}

// atMost is how many of n hosts may be in flight: the percentage rounded down,
// but never less than one. The epsilon keeps 7 % of 100 from being 6.
func atMost(p Percent, n int) int {
	return max(1, int(math.Floor(float64(p)*float64(n)/100+1e-9)))
}

// line is the ramp of one role: t hosts along a curve, shifted by the phase
// theta in [0,1).
type line struct {
	t     int
	theta float64
	curve curve
}

// due is what the ramp's clock shows when the i-th host (1 to t) is told: when
// the share reaches p = (i−θ)/T. It defines the ramp; quota is its inverse.
func (l line) due(i int) time.Duration {
	return l.curve.at((float64(i) - l.theta) / float64(l.t))
}

// quota is how many hosts are to be told when the ramp's clock shows e:
// floor(T·S + θ), at most T. The formula only guesses, so that due and quota
// agree to the nanosecond.
func (l line) quota(e time.Duration) int {
	if l.t <= 0 || e <= 0 {
		return 0
	}
	if e >= l.curve.length {
		return l.t
	}
	q := int(math.Floor(float64(l.t)*l.curve.share(e) + l.theta))
	q = max(0, min(l.t, q))
	for q < l.t && l.due(q+1) <= e {
		q++
	}
	for q > 0 && l.due(q) > e {
		q--
	}
	return q
}

// Salt makes a rollout's salt from a secret seed that is drawn once for a
// fleet: fresh for each rollout, since ids are never used again, and the same
// for its plan beforehand.
func Salt(seed string, id ID) string {
	sum := sha256.Sum256([]byte("tsunami salt\x00" + seed + "\x00" + string(id)))
	return hex.EncodeToString(sum[:16])
}

// salted hashes a name under a salt to 64 uniform bits.
func salted(salt, name string) uint64 {
	var room [128]byte
	b := append(room[:0], salt...)
	b = append(b, 0)
	b = append(b, name...)
	sum := sha256.Sum256(b)
	return binary.BigEndian.Uint64(sum[:8])
}

// unit maps 64 uniform bits to [0,1).
func unit(h uint64) float64 { return float64(h>>11) / (1 << 53) }

// thetas gives each group its phase: the k-th, ordered by target and then by
// salted hash, gets frac(u₀ + k·golden).
func thetas(salt string, targets map[string]int) map[string]float64 {
	type entry struct {
		key  string
		t    int
		hash uint64
	}
	all := make([]entry, 0, len(targets))
	for k, t := range targets {
		all = append(all, entry{k, t, salted(salt, "role "+k)})
	}
	slices.SortFunc(all, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.t, b.t), cmp.Compare(a.hash, b.hash), strings.Compare(a.key, b.key))
	})
	u := unit(salted(salt, "theta"))
	out := make(map[string]float64, len(all))
	for k, e := range all {
		out[e.key] = weyl(u, k)
	}
	return out
}

// weyl is frac(u + k·golden). The conversion keeps the two operations from
// being fused, so that schedulers on different processors agree.
func weyl(u float64, k int) float64 {
	_, f := math.Modf(u + float64(float64(k)*golden))
	return f
}

// place is a member with its sort keys: the fraction of the way through its
// role, and the salted hash that breaks ties.
type place struct {
	at  float64
	key uint64
	m   *member
}

func byPlace(a, b place) int {
	if a.at != b.at {
		return cmp.Compare(a.at, b.at)
	}
	return cmp.Compare(a.key, b.key)
}

// arrange sorts the members of one role into the order in which they are told:
// by salted hash, interleaved over the spread labels so that any prefix is
// even over them. Each value of a label is an evenly spaced comb of its own
// hosts, and the combs are shifted against each other by the golden ratio.
//
// depth is the first label that still counts, of labels.
func arrange(ps []place, salt string, depth, labels int) {
	if len(ps) < 2 {
		return
	}
	if depth == labels {
		slices.SortFunc(ps, func(a, b place) int { return cmp.Compare(a.key, b.key) })
		return
	}
	parts := make(map[Word][]place)
	for _, p := range ps {
		v := p.m.spread[depth]
		parts[v] = append(parts[v], p)
	}
	type comb struct {
		value Word
		hash  uint64
	}
	combs := make([]comb, 0, len(parts))
	for v := range parts {
		combs = append(combs, comb{v, salted(salt, "spread "+string(v))})
	}
	slices.SortFunc(combs, func(a, b comb) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.value, b.value))
	})
	u := unit(salted(salt, "spread"))
	ps = ps[:0]
	for k, c := range combs {
		part := parts[c.value]
		arrange(part, salt, depth+1, labels)
		shift := weyl(u, k)
		for j := range part {
			part[j].at = (float64(j) + shift) / float64(len(part))
		}
		ps = append(ps, part...)
	}
	slices.SortFunc(ps, byPlace)
}
