// Package slo is the core of the guard: what speaks against a rollout, and when
// it suffices.
package slo
