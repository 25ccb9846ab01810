// Package e2e tries Tsunami as its users meet it: the programs as processes of
// their own, real packages in real dpkg databases, and the nats command beside
// them. Nothing of the module's inside is called to change anything; the tests
// type what a person would, and judge by what the machines then say.
//
// The programs are built once for a run. Each process logs into the test's
// artifact directory, the end of which is shown when the test fails. Processes
// are stopped by their own ids, and every wait is bounded.
package e2e
