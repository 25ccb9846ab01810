package slo

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/field"
)

// FuzzWatch does to a watch whatever the bytes say, three a call.
func FuzzWatch(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 1, 0, 0, 2, 0, 3, 0, 2, 3, 1, 2, 1, 0, 0, 3, 0, 0, 9, 7, 0})
	f.Add([]byte{0, 0, 8, 0, 1, 9, 3, 0, 2, 3, 1, 6, 5, 0, 0, 5, 1, 1, 9, 5, 0, 7, 0, 0, 6, 0, 0, 7, 0, 1})
	f.Add([]byte{0, 0, 0, 3, 0, 2, 1, 0, 0, 2, 0, 0, 0, 0, 1, 8, 0, 50, 4, 0, 0, 10, 0, 0, 9, 255, 0})
	random := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		in := make([]byte, 3*(50+random.IntN(200)))
		for i := range in {
			in[i] = byte(random.UintN(256))
		}
		f.Add(in)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		w := NewWatch("r", []*Objective{dockerObjective(), simObjective()}, len(in)%5 == 4, simEpoch)
		now := simEpoch
		var verdict *Verdict
		var said string
		for ; len(in) >= 3 && len(in) < 3000; in = in[3:] {
			host, arg := field.Host(fmt.Sprint("h", in[1]%16)), int(in[2])
			session := fmt.Sprint("s", arg%2)
			switch in[0] % 12 {
			case 0:
				told := time.Time{}
				if arg%8 == 7 {
					told = simEpoch
				}
				w.Join(host, "web", nil, fmt.Sprint(arg%3), told)
			case 1:
				w.Told(host, now)
			case 2:
				w.Leave(host, now)
			case 3:
				w.Check(host, "docker", State(arg%3), "exit status 1", now)
			case 4:
				w.Enact(host, "no space left", now)
			case 5:
				w.Silent(host, session, now)
			case 6:
				w.Heard(host, now)
			case 7:
				w.Tick(session, now)
			case 8:
				w.Plan(now, time.Duration(arg)*time.Hour)
			case 9: // a time that stands still, goes on, or is said too late
				now = now.Add(time.Duration(int(in[1])*arg-1000) * time.Second)
			case 10:
				w.Settle(now)
			case 11:
				w.Standings()
				w.Unclear()
			}
			sane(t, w)
			switch v := w.Verdict(); {
			case verdict == nil && v != nil:
				verdict, said = v, text(t, v)
			case v != verdict || v != nil && text(t, v) != said:
				t.Fatalf("the verdict %s became %s", said, text(t, v))
			}
		}
	})
}

func text(t *testing.T, v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err) // as of a number that isn't one
	}
	return string(b)
}

// sane compares everything that a watch counts with a recount.
func sane(t *testing.T, w *Watch) {
	t.Helper()
	control, silent := make([]int, len(w.groups)), make([]int, len(w.groups))
	subjects := make([][]Subject, len(w.objectives))
	seen := make([]int, len(w.objectives))
	for _, m := range w.hosts {
		for i := range m.slots {
			s := &m.slots[i]
			subjects[i] = append(subjects[i], s.Subject)
			if s.AtRisk() || s.done {
				seen[i]++
			}
			if s.AtRisk() && s.done || s.AtRisk() && s.treated != !m.told.IsZero() && (s.treated || !s.failing && !m.silent) {
				t.Fatalf("%s is told at %v, and stands at %+v", m.host, m.told, s)
			}
		}
		if m.silent && m.atRisk() && w.quiet[m.host] != m || !m.silent && w.quiet[m.host] != nil {
			t.Fatalf("%s is silent: %v", m.host, m.silent)
		}
		if m.told.IsZero() && m.atRisk() {
			control[m.stratum]++
			if m.silent {
				silent[m.stratum]++
			}
		}
	}
	for i, g := range w.groups {
		if g.control != control[i] || g.silent != silent[i] {
			t.Fatalf("group %s counts %d of control and %d silent, want %d and %d", g.name, g.control, g.silent, control[i], silent[i])
		}
	}
	for i, j := range w.objectives {
		recount(t, j.Evidence, subjects[i])
		if j.seen != seen[i] || j.treated < 0 || j.control < 0 || j.restarts.n > len(starts) {
			t.Fatalf("%s: %d seen, want %d; %d treated, %d control", j.Name, j.seen, seen[i], j.treated, j.control)
		}
		treated, control := 0, 0
		for _, g := range j.strata {
			treated, control = treated+g.atRisk[0], control+g.control
		}
		if j.treated != treated || j.control != control {
			t.Fatalf("%s: %d treated and %d control, want %d and %d", j.Name, j.treated, j.control, treated, control)
		}
	}
	if len(w.pending) > len(w.hosts)*len(w.objectives)+16 || len(w.failed) > mostFailures {
		t.Fatalf("%d are due, and %d failures are kept", len(w.pending), len(w.failed))
	}
	for _, s := range w.Standings() {
		text(t, s)
		if s.E < 0 || s.Treated < s.TreatedFailed || s.Control < s.ControlFailed || s.Needs < 0 || s.Unwatched < 0 {
			t.Fatalf("%+v", s)
		}
	}
}
