// Package fleettest is a fleet in a test: a real broker, the real scheduler, and
// hosts, in simulated time. Two weeks of 300 hosts take seconds. Everything can
// be cut, killed and restarted, and what was written is checked all along
// against what must always hold (design.md §13).
//
// A test in Go calls [Run]. Most tests are scripts: files of testdata that
// [RunScript] runs.
//
// # Scripts
//
// A script is a list of commands, one a line. # begins a comment, double quotes
// keep words together. Time only passes in hosts (a minute), advance, until and
// while somebody is waited for. A duration is written as everywhere: 2w, 36h,
// 90s. After each command, and every simulated hour, the [Checker] looks at all
// that was written to the bucket and the inventory; a violation fails the
// script.
//
// The first command describes the fleet:
//
//	fleet [seeds=3] [more=9] [trace] [agents] [consume] [heartbeat=1d] [reread=1d] [renew=2h] [lease=6h] [confirm=10m]
//
// With seeds the script runs so many times, each time with other chances: the
// order of hosts, the faults of echoes, and whatever the script draws. With go
// test -fleettest.long come more of them, and the scripts of testdata/long. With
// trace everything that happens is written below the command that it followed,
// and compared with the file of the same name that ends in .golden; go test
// -update writes it. With agents hosts run the real agent, and with consume
// the scheduler reads streams as in production; both cost time, a second or so
// a simulated day. The rest are [Options].
//
// Hosts are named h1, h2, … in the order in which they come; h5..h8 are four of
// them. Each runs the values that are given, as in docker_version=1.10.3.
//
//	hosts 300 roles=20 zones=3 VAR=VALUE    so many, in roles r1 to r20, with the label zone
//	join 10 role=web,db VAR=VALUE           the same, for later ones
//	leave h3      return h3                 the machine is switched off at once; it comes back with its disk
//	cut h3        mend h3                   it can't reach the broker
//	hang h3       unhang h3                 its enactors don't end, so it doesn't confirm
//	decommission h3                         by the operator, who is alice
//
// What the operator does:
//
//	apply VAR [initial=VALUE] [type=string] [enact=file]
//	start ID VAR to=VALUE over=2w [percent=30] [where=EXPR] [limit="percent=30 atLeast=1 atMost=5 where=EXPR"]
//	      [inFlight=5%] [perRole=20%] [spread=zone,rack] [settle=1h] [after=ID] [supersedes=ID]
//	pause ID ["why"]   cancel ID ["why"]
//	resume ID                               acknowledging the newest abort, if there is one
//	abort ID "why"     stop "why"           a plain put, as nats kv put does it
//	start "why"                             releases the newest stop
//	put KEY TEXT                            any key, by hand
//	refuse COMMAND…                         must be refused
//
// What happens to the parts:
//
//	scheduler up|down                       down gives the lease back
//	scheduler kill                          as kill -9: nothing that it says any more arrives
//	scheduler kill in step [within=2d]      the same while it writes its next step: the broker gets nothing,
//	                                        a part, or all of it, and the answer is lost
//	scheduler blind|sees                    while blind, nothing that is written to the bucket reaches it
//	broker up|down|restart
//	echoes lose=10% double=5% reorder=5%    of desired state, to all hosts; echoes alone ends that
//
// Time, and what must be true:
//
//	advance 6h         advance 1h..20h      the latter draws, to the minute
//	until ID told>=137 within=2w            looks whenever something is written; told>=1..290 draws
//	expect ID state=running told~150 within=3
//	expect tells ID=300                     desired-state records of each rollout
//	expect actual VAR VALUE=290 OTHER=10    what machines that are on run
//	expect host h3 VAR=VALUE actual.VAR=VALUE online=true generation=2 applied=2
//	expect variable VAR value=VALUE VALUE=300
//	watch ID [fleet=2] [role=1]             from now on it is undisturbed: at every check so near to its line
//	unwatch ID
//	audit                                   the audit log has each change once (looked at the end, too)
//	repeat 20 … end
//
// A rollout has the fields state, reason (its code), why, by, target, told,
// confirmed, failed, inFlight, limit, planned, elapsed, ends (counted from the
// beginning of time), layer, told.ROLE and target.ROLE. Conditions compare with
// =, <= and >=; ~ means as near as within=, which is 2 hosts, or hours, unless
// it is given.
//
// # Hosts
//
// A light host is a few fields in one goroutine for all: it hears echoes
// through one subscription, re-reads, takes what has a higher generation,
// reports and confirms. It stands for the wire alone. A real host is
// hostagent.Run with a connection, a state directory, and programs that are
// functions.
//
// # What a simulation costs
//
// Simulated time is skipped when nothing is left to do before the next timer,
// so what costs is each thing that happens. quiet.go lists what happens in an
// idle broker and what was done about it. Beyond that a lease renewal costs
// about as much as a step; so heartbeats, re-reads and renewals are hours long
// here, and a script that is about them makes them shorter. Note that a
// scheduler takes every host as offline until it has heard it: one that
// is started anew is blind for up to a heartbeat.
//
// # Concurrency
//
// A Fleet belongs to the goroutine of its test, which must be inside of the
// bubble that [Run] makes. One bubble runs at a time: the broker's clock for
// caches is global to the process. In a bubble, whoever waits for a mutex stops
// the time, so locks are held for moments only.
package fleettest
