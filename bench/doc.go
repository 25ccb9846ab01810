// Package bench holds the benchmarks that need a broker: steps a second, the
// scheduler's whole loop, delivery to a connected fleet, and the memory of an
// agent. Those of the core alone are in package rollout.
//
//	go test -run '^$' -bench . ./bench/ ./rollout/
//
// Each stands beside a floor, which is the same work by the plainest means, in
// the same run and, where both take turns, in the same second. Figures of
// different machines, or of one machine on different days, don't compare;
// ratios to the floor do. docs/performance.md has what was measured last.
//
// Everything runs against brokers that the benchmarks start themselves, within
// the process or on loopback, with every write synced as in production.
package bench
