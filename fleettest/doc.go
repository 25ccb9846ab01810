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
//	fleet [seeds=3] [more=9] [trace] [at=2027-03-26T12:00+01:00] [exact] [agents] [consume] [sealed]
//	      [heartbeat=1d] [reread=1d] [renew=2h] [lease=6h] [confirm=10m]
//
// With seeds the script runs so many times, each time with other chances: the
// order of hosts, the faults of echoes, and whatever the script draws. With go
// test -fleettest.long come more of them, and the scripts of testdata/long. With
// trace everything that happens is written below the command that it followed,
// and compared with the file of the same name that ends in .golden; go test
// -update writes it. Time begins at midnight UTC on 1 January 2000, a Saturday,
// unless at= gives a later moment. With exact a light host takes as long as
// confirm= says, and no less or more. With agents hosts run the real agent, and
// with consume the scheduler reads streams as in production; both cost time, a
// second or so a simulated day. With sealed the scheduler seals what it writes, and
// believes only what is sealed. The rest are [Options].
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
// What the operator does. Documents, as tsunamictl apply takes them, stand
// indented below the line whose last word is apply or plan:
//
//	apply
//	  kind: Rollout
//	  name: up
//	  …
//	apply VAR [initial=VALUE] [type=string] [enact=file]    a variable, in short
//	start ID VAR to=VALUE over=2w [percent=30] [where=EXPR] [limit="percent=30 atLeast=1 atMost=5 where=EXPR"]
//	      [inFlight=5%] [perRole=20%] [spread=zone,rack] [settle=1h] [after=ID] [supersedes=ID]
//	delete KIND NAME
//	plan ID [confirm=10m]                   asks for the plan, which the script remembers; or that of the rollout below
//	pause ID ["why"]   cancel ID ["why"]
//	resume ID                               acknowledging the newest abort, if there is one
//	approve ID ["why"]
//	advance ID [to=60%] ["why"]             past the bake, to the next wave, or to a share
//	release ID h3 h5..h8                    their places in flight
//	rollback ID [to=VALUE] [over=2h] ["why"]
//	pin h3 VAR=VALUE [until=6h] ["why"]     until a time, or so long from now
//	unpin h3 [VAR]
//	abort ID "why"     stop "why"           a plain put, as nats kv put does it
//	start "why"                             releases the newest stop
//	put KEY TEXT                            any key, by hand
//	as bob COMMAND…                         as another operator than alice
//	refuse [because=TEXT] COMMAND…          must be refused, for a reason that has the text in it
//
// What happens to the parts, of which the script is the guard itself:
//
//	scheduler up|down                       down gives the lease back
//	scheduler kill                          as kill -9: nothing that it says any more arrives
//	scheduler kill in step [within=2d]      the same while it writes its next step: the broker gets nothing,
//	                                        a part, or all of it, and the answer is lost
//	scheduler blind|sees                    while blind, nothing that is written to the bucket reaches it
//	guard clear ID [for=2d]                 the guard's lease says that the evidence is fresh for so long, 366d if not given
//	guard withhold ID "why"                 that it isn't
//	guard silent                            nothing of any rollout, as after a clean stop
//	guard abort ID "why"                    its abort
//	broker up|down|restart
//	echoes lose=10% double=5% reorder=5%    of desired state, to all hosts; echoes alone ends that
//
// Time, and what must be true:
//
//	advance 6h         advance 1h..20h      the latter draws, to the minute
//	at 2000-01-04T06:00+01:00               lets time pass until then
//	until ID told>=137 within=2w            looks whenever something is written; told>=1..290 draws
//	expect ID state=running told~150 within=3
//	expect tells ID=300                     desired-state records of each rollout
//	expect actual VAR VALUE=290 OTHER=10    what machines that are on run
//	expect host h3 VAR=VALUE actual.VAR=VALUE online=true generation=2 applied=2 pinned=false problems~drifted
//	expect variable VAR value=VALUE VALUE=300
//	expect blackout NAME inForce=true next=2000-04-01T00:00Z holds=ID,ID
//	expect why h3 VAR value=VALUE rollout=ID next=ID to=VALUE due=2000-01-03T10:00Z blocked~pinned
//	expect plan ID ends=2000-01-16T13:00Z hosts=56 costs.blackout=36h conflicts~christmas host.h3=2000-01-03T10:00Z
//	expect told-as-planned ID               each host at the time that the plan had said, to the second
//	expect last-told-first ID               a rollback, in the order of its roles
//	watch ID [fleet=2] [role=1]             from now on it is undisturbed: at every check so near to its line
//	unwatch ID
//	audit                                   the audit log has each change once (looked at the end, too)
//	repeat 20 … end
//
// A rollout has the fields state, reason (its code), says (in words), why, by,
// target, told, confirmed, failed, inFlight, limit, planned, elapsed, over,
// next, started, ends, plannedEnd, late, held.REASON, approvals,
// approvalsNeeded, rollback, rollbackOf, pinned, notEnacted, layer, told.ROLE
// and target.ROLE. A plan has starts, clock, ends, length, target, told, hosts,
// canaries, days, closed, conflicts, costs.REASON, refused and host.HOST; it is
// the one that the script asked for with plan, or else the one of now.
//
// Conditions compare with =, <= and >=. With ~ a number is as near as within=,
// which is 2 hosts, or hours, unless it is given, and a text is somewhere in the
// other. Times are written in full, as for at, or as how long after the
// beginning of time.
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
