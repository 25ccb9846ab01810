// Package archtest holds the module's architecture: who may import whom, what
// the cores may not touch, and what no file may name.
//
//	cmd → parts → bus, control → subjects → (rollout, slo) → standard library
//
// [Check] reads a module's source and returns each place where it departs from
// that. The tables in rules.go are the architecture; a new package needs a row
// there, which is the moment to think about where it belongs.
//
// The tests run Check over this module, which must be clean, and over small
// modules with one violation each, which must be seen.
package archtest
