package sloguard

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/broker"
	"github.com/tsunami-rollouts/tsunami/field"
	"github.com/tsunami-rollouts/tsunami/promql"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// oracle is a Prometheus that says what a test wants.
type oracle struct {
	mu     sync.Mutex
	answer promql.Answer
	asked  int
}

func (o *oracle) Ask(_ context.Context, _ *slo.Objective, now time.Time) promql.Answer {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked++
	a := o.answer
	a.Time = now
	return a
}

func (o *oracle) says(a promql.Answer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.answer = a
}

// answer is one in which these hosts fail and the others don't.
func answer(hosts []rollout.Host, failing ...rollout.Host) promql.Answer {
	a := promql.Answer{Said: promql.Said{Outcome: slo.Success}, Hosts: map[rollout.Host]promql.Said{}}
	for _, h := range hosts {
		a.Hosts[h] = promql.Said{Outcome: slo.Success}
	}
	for _, h := range failing {
		a.Hosts[h] = promql.Said{Outcome: slo.Failing, Why: "the query gives 7"}
	}
	return a
}

// The guard asks while it leads and a rollout wants to know, records what it is
// told, and judges by the record.
func TestTheGuardAsks(t *testing.T) {
	r := newRig(t, broker.Options{Unsynced: true})
	o := &oracle{}
	r.prometheus = o
	stop := r.guard()
	hosts := r.hosts("web", 10)
	r.objective("healthy", func(o *slo.Objective) {
		o.Check, o.For, o.FailureLimit = "", new(field.Duration(0)), new(0)
		o.PromQL = &slo.Query{Query: "up", Success: "> 0", Every: field.Duration(time.Second)}
		o.WithinOfChange, o.Steady = nil, nil
	})
	o.says(promql.Answer{Said: promql.Said{Outcome: slo.Errored, Why: "connection refused"}})
	r.rollout("up", nil)
	r.eventually("it says that nobody answers", func() bool {
		return strings.Contains(r.unclear("up"), "no answer of Prometheus") && strings.Contains(r.unclear("up"), "connection refused")
	})
	o.says(answer(hosts))
	r.clear("up")
	r.tell("up", hosts[0], 2)
	o.says(answer(hosts, hosts[0]))
	_, v := r.aborted("up")
	if v.Kind != slo.Limit || v.Failed[0].How != slo.FailedSignal || v.Failed[0].Output != "the query gives 7" {
		t.Errorf("verdict %+v", v)
	}
	stop()
	o.mu.Lock()
	asked := o.asked
	o.mu.Unlock()
	time.Sleep(1500 * time.Millisecond)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.asked != asked {
		t.Error("it asks on after its end")
	}
}

// Of hosts a look records what has changed, all of it now and then, and in parts
// where there is much.
func TestWhatALookRecords(t *testing.T) {
	w := &watcher{o: &slo.Objective{Name: "o", PromQL: &slo.Query{Query: "up", Success: "> 0"}}}
	var hosts []rollout.Host
	for i := range 2*recordHosts + 10 {
		hosts = append(hosts, rollout.Host(fmt.Sprintf("h%05d", i)))
	}
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	look := func(after time.Duration, a promql.Answer) []subjects.Signal {
		at = at.Add(after)
		a.Time = at
		return w.records(a)
	}
	all := look(0, answer(hosts))
	if len(all) != 3 || !all[0].Full || all[1].Full || !all[0].More || !all[1].More || all[2].More || all[0].Query != "up" ||
		len(all[0].Passing)+len(all[1].Passing)+len(all[2].Passing) != len(hosts) {
		t.Fatalf("the first look: %d records", len(all))
	}
	if again := look(15*time.Second, answer(hosts)); len(again) != 0 {
		t.Errorf("nothing new: %+v", again)
	}
	if again := look(15*time.Second, answer(hosts)); len(again) != 1 || again[0].Full || len(again[0].Passing) != 0 {
		t.Errorf("nothing new for half a minute: %+v", again)
	}
	a := answer(hosts[1:], hosts[1])
	if news := look(15*time.Second, a); len(news) != 1 || len(news[0].Failing) != 1 || len(news[0].Unsaid) != 1 || news[0].Unsaid[0] != hosts[0] {
		t.Errorf("one fails, one is gone: %+v", news)
	}
	if still := look(15*time.Second, a); len(still) != 1 || len(still[0].Failing) != 0 {
		t.Errorf("one fails still, which a look has to say: %+v", still)
	}
	failed := promql.Answer{Said: promql.Said{Outcome: slo.Errored, Why: "x"}}
	if news := look(15*time.Second, failed); len(news) != 1 || news[0].Outcome != slo.Errored || len(news[0].Unsaid) != 0 {
		t.Errorf("an error says nothing of hosts: %+v", news)
	}
	if news := look(15*time.Second, answer(hosts[1:])); len(news) != 1 || len(news[0].Passing) != 1 || news[0].Passing[0] != hosts[1] {
		t.Errorf("it is well again: %+v", news)
	}
	if full := look(10*time.Minute, answer(hosts)); len(full) != 3 || !full[0].Full {
		t.Errorf("after ten minutes: %d records", len(full))
	}
}
