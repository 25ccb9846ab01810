package slo

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/tsunami-rollouts/tsunami/field"
)

// Standing is the evidence for one objective of a rollout as it stands.
type Standing struct {
	Objective field.ID `json:"objective"`
	// E is how much more probable what was seen is if the change does harm than
	// if it does none: in the mean of Harm, against the hosts not yet changed,
	// and Breach, against the budgets. It starts at 1, and at Bar it freezes the
	// rollout; of several objectives the sum of each one's E/Bar counts, at 1.
	E      float64 `json:"e"`
	Harm   float64 `json:"harm"`
	Breach float64 `json:"breach,omitempty"` // 0: it has no budgets
	Bar    float64 `json:"bar"`
	// Hosts that are watched: changed ones and those not yet changed, with those
	// among them that have failed.
	Treated       int `json:"treated"`
	TreatedFailed int `json:"treatedFailed"`
	Control       int `json:"control"`
	ControlFailed int `json:"controlFailed"`
	// Needs is how many more changed hosts would freeze the rollout if they
	// failed now, one after the other, and 0 where no number would.
	Needs int `json:"needs"`
	// Unwatched counts the rollout's hosts that aren't watched: they were never
	// seen to pass the check since the rollout was created.
	Unwatched int `json:"unwatched,omitempty"`
	// Gate is what looks from outside have come to, where the objective has them.
	// Where it isn't about single hosts nothing is weighed, and Bar is 0.
	Gate *GateStanding `json:"gate,omitempty"`
}

// Kind says what a verdict means.
type Kind string

// The kinds of verdicts. Both freeze the rollout.
const (
	// Harm: hosts that were changed fail more than those that weren't.
	Harm Kind = "harm"
	// Breach: more of them fail than the objective allows, whatever the cause.
	Breach Kind = "breach"
	// Limit: more has failed than its failureLimit, which nothing is weighed
	// against.
	Limit Kind = "limit"
)

// Verdict is that the evidence against a rollout suffices. As the evidence of
// an abort it stands in the bucket.
type Verdict struct {
	Rollout   field.ID   `json:"rollout"`
	Kind      Kind       `json:"kind"`
	Objective field.ID   `json:"objective"` // of several the one that weighs most
	Sequence  uint64     `json:"sequence"`  // of the evidence at which it fell
	Time      time.Time  `json:"time"`      // of that
	Standings []Standing `json:"standings"`
	// Failed are the changed hosts that failed, the oldest first, at most 20; of
	// more the newest. Of counts them all.
	Failed []Failure `json:"failed"`
	Of     int       `json:"of"`
	// RuledOut says in plain words what else it could have been and wasn't.
	RuledOut []string `json:"ruledOut,omitempty"`
}

// Failure is the first failure of a host in a rollout.
type Failure struct {
	Host field.Host `json:"host"`
	Role field.Word `json:"role"`
	How  How        `json:"how"`
	// Treated says that the host had been changed; Told is when it was told.
	Treated bool      `json:"treated,omitempty"`
	Told    time.Time `json:"told,omitzero"`
	Time    time.Time `json:"time"`             // when it began to fail
	Output  string    `json:"output,omitempty"` // what the host reported, bounded
}

// How says in which way a host failed.
type How string

// The ways in which a host fails.
const (
	FailedCheck   How = "check"   // the check failed for its `for`
	FailedEnact   How = "enact"   // it gave up making the value true
	FailedSignal  How = "signal"  // a query, or an alert, said so for its `for`
	FailedSilence How = "silence" // it was silent for longer than its grace
)

// plainHarm is the E_C from which a verdict says harm and not only breach: if the
// change did none, it would be reached in fewer than 5 of 100 rollouts.
const plainHarm = 20

// mostNeeded bounds how far Standing.Needs looks.
const mostNeeded = 50

// Verdict is the watch's, once there is one; nil before. It never changes.
func (w *Watch) Verdict() *Verdict { return w.verdict }

// weight is Σ E/bar as of now: at 1 the rollout is frozen. All objectives are
// brought up to now first, whoever has looked at them before, or the sum would
// depend on that.
func (w *Watch) weight() (sum float64) {
	for _, j := range w.objectives {
		j.advance(w.now)
		sum += j.share * math.Exp(j.E())
	}
	return sum
}

// decide comes to the verdict, after a failure: nothing else adds evidence.
func (w *Watch) decide() {
	for _, j := range w.objectives {
		if j.FailureLimit != nil && !j.Gate() && j.treatedFailed > j.Limit() {
			w.decideBy(j)
		}
	}
	if w.verdict != nil || w.weight() < 1 {
		return
	}
	worst := slices.MaxFunc(w.objectives, func(a, b *judged) int {
		return cmp.Compare(math.Log(a.share)+a.E(), math.Log(b.share)+b.E())
	})
	v := &Verdict{
		Rollout: w.id, Kind: Breach, Objective: worst.Name, Time: w.now, Standings: w.Standings(),
		Failed: slices.Clone(w.failed), Of: w.failures,
	}
	if worst.Harm() >= math.Log(plainHarm) || worst.Harm() >= worst.Breach() {
		v.Kind = Harm
	}
	v.RuledOut = w.ruledOut(worst)
	w.verdict = v
}

// decideBy comes to the verdict that an objective's limit is passed.
func (w *Watch) decideBy(j *judged) {
	if w.verdict != nil {
		return
	}
	w.verdict = &Verdict{
		Rollout: w.id, Kind: Limit, Objective: j.Name, Time: w.now, Standings: w.Standings(),
		Failed: slices.Clone(w.failed), Of: w.failures,
	}
}

// ruledOut says what else could have been.
func (w *Watch) ruledOut(j *judged) (out []string) {
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	switch n := j.control + j.controlFailed; {
	case n == 0:
		say("nothing can be said of a cause beside the change: every host that is watched has been changed")
	case j.controlFailed == 0:
		say("not a general failure: of %d hosts not yet changed none failed meanwhile", n)
	default:
		say("not a general failure alone: of %d hosts not yet changed %d failed meanwhile, of %d changed ones %d", n, j.controlFailed, j.treated+j.treatedFailed, j.treatedFailed)
	}
	if slices.ContainsFunc(w.failed, func(f Failure) bool { return f.How == FailedSilence }) {
		silent, control := 0, 0
		for _, g := range w.groups {
			silent, control = silent+g.silent, control+g.control
		}
		say("not a failure to hear: %d of %d hosts not yet changed are silent now", silent, control)
	}
	say("not chance: of rollouts that do no harm at most %s are ever frozen", field.Percent(100*j.alpha()))
	return out
}

// Standings is the evidence as it stands, an objective each.
func (w *Watch) Standings() []Standing {
	out := make([]Standing, len(w.objectives))
	for i, j := range w.objectives {
		j.advance(w.now) // a steady budget has been kept until now
		out[i] = Standing{
			Objective: j.Name, E: finite(j.E()), Harm: finite(j.Harm()), Gate: j.standing(),
			Treated: j.treated + j.treatedFailed, TreatedFailed: j.treatedFailed,
			Control: j.control + j.controlFailed, ControlFailed: j.controlFailed,
			Needs: w.needs(i),
		}
		if !j.Gate() {
			out[i].Bar, out[i].Unwatched = 1/j.share, len(w.hosts)-j.seen
		}
		if j.Budgets() {
			out[i].Breach = finite(j.Breach())
		}
	}
	return out
}

// finite is e^x as a number that JSON can write.
func finite(x float64) float64 { return math.Exp(min(x, 700)) }

// needs is how many of the changed hosts of the stratum that has most of them,
// the newest first, would have to fail now. It tries that on a copy.
func (w *Watch) needs(objective int) int {
	j := w.objectives[objective]
	if w.verdict != nil || len(j.strata) == 0 {
		return 0
	}
	others := w.weight() - j.share*math.Exp(j.E())
	e := j.clone()
	g := slices.MaxFunc(e.strata, func(a, b *stratum) int { return cmp.Compare(a.atRisk[0], b.atRisk[0]) })
	n := 0
	for i := len(g.queue) - 1; i >= 0 && n < mostNeeded; i-- {
		s := *g.queue[i]
		if !s.atRisk {
			continue
		}
		n++
		e.Fail(&s, w.now)
		if others+j.share*math.Exp(e.E()) >= 1 || j.FailureLimit != nil && j.treatedFailed+n > j.Limit() {
			return n
		}
	}
	return 0
}
