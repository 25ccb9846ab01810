// Package field holds what the fields of documents and records are made of:
// names, durations, percentages, and the error that says which field is wrong.
// Both cores, rollout and slo, write their documents with it, and neither knows
// the other.
package field
