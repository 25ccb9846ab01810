package slo

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/tsunami-rollouts/tsunami/field"
)

// Ratio is a service level objective in the words of its field: of all events so
// many are good, over a window. While its error budget burns too fast a rollout
// holds, whoever burns it. It freezes nothing: it says nothing of who is to blame.
type Ratio struct {
	// Good or Bad, and Total, count events, in PromQL. "$window" stands for a
	// range such as 5m, as in sum(rate(http_requests_total[$window])); a query
	// without it is of counters, whose increase is taken.
	Good  string `json:"good,omitempty"`
	Bad   string `json:"bad,omitempty"`
	Total string `json:"total"`
	// Target is the share of events that are to be good, 50% to 99.9999%.
	Target field.Percent `json:"target"`
	// Window is over how long; it says for how long the budget lasts at a burn
	// rate of 1. Default 28 days.
	Window field.Duration `json:"window,omitempty"`
	// Burn are the rates at which a rollout holds: at one of them, in both of its
	// windows. Default 14.4 in 5 m and 1 h, and 6 in 30 m and 6 h: the budget of 28
	// days would be gone in two, or in five (Site Reliability Workbook, ch. 5).
	Burn []Burn `json:"burn,omitempty"`
}

// Burn is a rate at which an error budget burns: 1 uses it up just at the end of
// its window.
type Burn struct {
	Rate  float64        `json:"rate"`
	Short field.Duration `json:"short"` // in this window still
	Long  field.Duration `json:"long"`  // and in this one on the whole
}

// DefaultBurn are the burn rates at which a rollout holds.
var DefaultBurn = []Burn{
	{14.4, field.Duration(5 * time.Minute), field.Duration(time.Hour)},
	{6, field.Duration(30 * time.Minute), field.Duration(6 * time.Hour)},
}

const (
	// DefaultRatioWindow is over how long a ratio is, if it doesn't say.
	DefaultRatioWindow = field.Duration(28 * 24 * time.Hour)
	// rangeVariable stands for a range in a ratio's queries.
	rangeVariable = "$window"

	minTarget, maxTarget = 50, 99.9999
	maxBurns             = 4
)

// Query is what Prometheus is asked for a ratio: by how many times the budget burns
// too fast, at 1 just so. It is the greatest of the burn rates' values, each the
// smaller of its two windows'.
func (r *Ratio) Query() *Query {
	var all string
	for _, b := range r.burn() {
		short, long := r.burning(b.Short, b.Rate), r.burning(b.Long, b.Rate)
		smaller := fmt.Sprintf("((%s) <= (%s) or (%s))", short, long, long)
		if all == "" {
			all = smaller
		} else {
			all = fmt.Sprintf("(%s >= %s or %s)", all, smaller, smaller)
		}
	}
	return &Query{Query: all, Per: PerRollout, Failure: ">= 1"}
}

func (r *Ratio) burn() []Burn {
	if len(r.Burn) == 0 {
		return DefaultBurn
	}
	return r.Burn
}

// burning is the share of bad events in a window, as a share of what the rate
// allows.
func (r *Ratio) burning(window field.Duration, rate float64) string {
	in := func(query string) string {
		if strings.Contains(query, rangeVariable) {
			return "(" + strings.ReplaceAll(query, rangeVariable, window.String()) + ")"
		}
		return fmt.Sprintf("sum(increase((%s)[%s:]))", query, window)
	}
	share := fmt.Sprintf("%s / %s", in(r.Bad), in(r.Total))
	if r.Bad == "" {
		share = fmt.Sprintf("1 - %s / %s", in(r.Good), in(r.Total))
	}
	return fmt.Sprintf("(%s) / %.6g", share, rate*(100-float64(r.Target))/100)
}

// Over is the window, with its default.
func (r *Ratio) Over() field.Duration { return cmp.Or(r.Window, DefaultRatioWindow) }

func (r *Ratio) faults(add func(path, format string, args ...any)) {
	if (r.Good == "") == (r.Bad == "") {
		add("ratio.good", "a ratio has one of good and bad, and total")
	}
	if r.Total == "" {
		add("ratio.total", "is missing: how many events there are, such as sum(rate(http_requests_total[$window]))")
	}
	if n := max(len(r.Good), len(r.Bad), len(r.Total)); n > maxQuery/8 {
		add("ratio.total", "a query of %d bytes is too long: at most %d", n, maxQuery/8)
	}
	if r.Target < minTarget || r.Target > maxTarget {
		add("ratio.target", "%s is out of range: want %d%% to %v%%", r.Target, minTarget, maxTarget)
	}
	if r.Window != 0 && (r.Window < field.Duration(time.Hour) || r.Window > 4*maxWindow) {
		add("ratio.window", "%s is out of range: want 1h to 360d", r.Window)
	}
	if len(r.Burn) > maxBurns {
		add("ratio.burn", "%d are too many: at most %d", len(r.Burn), maxBurns)
	}
	for i, b := range r.Burn {
		at := fmt.Sprintf("ratio.burn[%d].", i)
		if b.Rate < 1 || b.Rate > 1000 {
			add(at+"rate", "%v is out of range: want 1 (the budget lasts just as long as its window) to 1000", b.Rate)
		}
		if b.Short < field.Duration(time.Minute) || b.Short >= b.Long || b.Long > maxWindow {
			add(at+"long", "%s and %s: want a short window of 1m or more, and a longer one of at most 90d", b.Short, b.Long)
		}
	}
}
