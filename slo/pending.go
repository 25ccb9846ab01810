package slo

import (
	"cmp"
	"container/heap"
	"time"

	"github.com/tsunami-rollouts/tsunami/field"
)

// due is a check that counts as failed at a time, if it goes on failing until
// then.
type due struct {
	at        time.Time
	host      field.Host
	objective int
}

// pending are the checks that are failing and don't count yet, the first first.
// What passes meanwhile stays in it and is found void when its time comes.
type pending []due

func (p *pending) add(d due) { heap.Push(p, d) }

// pop takes the first that is due by now.
func (p *pending) pop(now time.Time) (due, bool) {
	if len(*p) == 0 || (*p)[0].at.After(now) {
		return due{}, false
	}
	return heap.Pop(p).(due), true
}

// first is when the first is due; the zero time where none is.
func (p pending) first() time.Time {
	if len(p) == 0 {
		return time.Time{}
	}
	return p[0].at
}

// Len, Less, Swap, Push and Pop are for the heap. Those of one time come in the
// order of hosts, whatever the order in which they began to fail.
func (p pending) Len() int { return len(p) }

// Less is for the heap.
func (p pending) Less(i, k int) bool {
	return cmp.Or(p[i].at.Compare(p[k].at), cmp.Compare(p[i].host, p[k].host), cmp.Compare(p[i].objective, p[k].objective)) < 0
}

// Swap is for the heap.
func (p pending) Swap(i, k int) { p[i], p[k] = p[k], p[i] }

// Push is for the heap.
func (p *pending) Push(x any) { *p = append(*p, x.(due)) }

// Pop is for the heap.
func (p *pending) Pop() any {
	last := len(*p) - 1
	d := (*p)[last]
	*p = (*p)[:last]
	return d
}
