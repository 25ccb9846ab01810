// Package scheduler decides and commits who is told what.
//
// One goroutine owns all state: a mirror of both buckets in a
// rollout.Snapshot, kept by two consumers, and the lease. When something
// changes, or the time that the last decision named arrives, it calls
// rollout.Decide and commits what comes back as atomic batches, one at a time,
// and then waits until its mirror has consumed what it committed before it
// decides again. So a decision always rests on everything that was committed
// before it, and a batch that was refused, or whose answer was lost, needs no
// undoing: it is in the mirror or it isn't.
//
// # Fences
//
// Every batch starts with the lease, renewed, expecting its own last revision:
// only the leader's batches commit. Every desired-state message expects the
// key stop at the sequence that was acknowledged, and the progress expects
// abort.<rollout> likewise. The broker checks them as it commits.
//
// # Lost answers
//
// A commit whose answer is lost may have happened. The scheduler then renews
// its lease, expecting the revision from before: if that commits, the lost
// batch never can; if it is refused, somebody's batch came in between, and the
// mirror shows whose. The step id in the lease's record tells them apart.
package scheduler
