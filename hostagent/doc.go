// Package hostagent is the part that runs on every host: it learns the host's
// desired state, makes it true with the host's own programs, and reports what
// the host is, has and runs.
//
// # What it takes
//
// The agent hears its own key on tsunami.desired.<host>, and reads the record
// itself by Direct Get: after it has subscribed, on every reconnect, and every
// few minutes. Both say the same; generations alone decide. It takes a
// document only if the message's own subject is the host's, the record is one
// that the scheduler writes, and the generation is higher than the one it has
// on disk. A delete marker or an empty body changes nothing, so a host that
// was decommissioned keeps what it has. A late or doubled message is silent; a
// foreign record, another host's, or another document of the same generation
// is refused, logged, and reported once as a health event. So is a generation
// that stays lower in the bucket itself, whose store was rolled back then.
//
// With pinned keys (Config.Trust, or Options.Keyring) a record must bear the
// seal of one of them over this host's own key, whatever brought it. And a new
// generation is taken only beside a fresh epoch: the scheduler's sealed word of
// what time it is, which is read by Direct Get with the document, and again when
// one is heard while none is fresh. Fresh is at most subjects.EpochFresh from
// this host's clock, either way, and not older than one that counted before,
// which state.json keeps. So a broker without its scheduler can stop changes and
// never choose them. A document that lacks a fresh epoch is pending: it is
// reported once, stands in the report as retrying, and is tried with each read.
//
// Taking is: state.json is replaced (written beside, synced, renamed, the
// directory synced), then desired.json and the configured files are, then the
// variables with a new order are enacted, the oldest order first. If the disk
// doesn't take state.json, the document isn't taken: it is reported and tried
// again, and the host changes nothing. If it doesn't take the other files,
// nothing is enacted until it does.
//
// A variable that isn't in the new document any more was taken out of it: it
// leaves the files and state.json with its order and what was enacted of it,
// and no program runs for it. Its observer, if it has one, goes on.
//
// # The state file
//
// state.json holds the newest document with its generation and, for each
// variable, what was enacted last. Without it the agent couldn't tell whether
// a document is older than what the host runs, and couldn't tell an order that
// was never fulfilled from later drift. An agent whose state.json is damaged,
// or belongs to another host, therefore takes and enacts nothing. It goes on
// observing, checking and reporting, with generation 0 and the fault as the
// error of every variable that it is offered, and refuses each document with a
// health event, so the fault is seen where the rollout is. A person decides:
// the file restored continues where it was; the file removed makes this a new
// host, which takes the broker's newest document. The same goes for a clone of
// another host's disk. A missing file is a new host.
//
// Two agents can't share a state directory: the second one's Run returns an
// error.
//
// Files are written below an os.Root of their own directory, and links there are
// replaced, never followed: whoever may write into that directory can't have the
// agent write, or read its state, elsewhere.
//
// # Identity
//
// The credentials, the pinned keys and the files of TLS are looked at four times
// a heartbeat, by size and time. When those of the connection change, it is made
// anew, with another prefix of inboxes where the key is another; when the pinned
// keys do, what waits is dropped and read again. Files that can't be used change
// nothing while the agent runs, and are an ErrIdentity when it starts.
//
// # Enacting
//
// One program runs at a time, from any variable's enactor or observer; checks
// run beside them. An attempt observes, and is done if the host runs the value
// already; else it runs the enactor and observes again. Success is what the
// observer says. Without an observer exit 0 is success, and what was enacted
// last counts as what the host runs. A failed attempt is tried again with
// backoff, for ever; after Retry.Attempts it is reported as failed for good. A
// new order resets that and interrupts the wait. It doesn't interrupt a running
// enactor, which ends by itself or by its timeout.
//
// When observing says otherwise after an order was fulfilled, the variable is
// reported as drifted. With DriftReport, the default, it is left at that. With
// DriftEnact it is enacted again, at once the first time. Each repair counts as
// an attempt of the order, whether it fails or the value drifts anew, and the
// next waits as after a failure, until a look finds the value in place
// Retry.Max after it was enacted. What drifts after Retry.Attempts is reported
// as failed, also while the value is there, and is enacted every Retry.Max.
// Attempts and waits are forgotten when the agent restarts; drift isn't, since
// state.json says what was fulfilled.
//
// An enactor may be killed with the agent, or may have finished just before the
// agent could write that down: it must be able to run again.
//
// While the broker is away the agent finishes what it was told, and keeps it.
//
// # Holding
//
// A host is held as long as its hold file is there (Config.Hold), or for good
// by Options.ObserveOnly. Its agent observes, checks and reports as ever, and
// changes nothing: it enacts nothing, repairs no drift, and leaves the files as
// they are, since other programs enact from them. It hears documents without
// taking them. So its report stays at the generation before, which keeps all
// that is new unconfirmed, what observe says notwithstanding; it names what is
// held back as retrying, and the why as Report.Held. An order that was taken
// before the hold, and isn't fulfilled, waits too.
//
// The file is looked for before each change, and four times a heartbeat for the
// report and for its end, after which the newest document is taken. An enactor
// that runs when the file appears is left to end. Anything at that path holds,
// and so does whatever keeps the agent from looking there.
//
// # Checks
//
// A check passes when its program exits with 0; its page answers GET with 2xx,
// redirects followed on the same host only; its address takes a connection; or
// its unit is active, or reloads. A unit that starts, stops or waits to be
// restarted isn't active. Whatever comes later than its timeout has failed.
//
// A check starts anew, with the document's generation, whenever an order was
// fulfilled and none of that document's own orders is left. It is pending
// while it passes, passing once it has passed for its `for` without a break
// since then, and failing as soon as it fails. A run that began before doesn't
// count for passing.
//
// # Delivery
//
// A report is the full truth at the moment when it is sent. One is under way
// at a time; what changes meanwhile, or within a tenth of a second, goes into
// the next. It is sent until the broker has stored it, and again every
// Options.Republish. Health events are sent one after the other in the order
// of their sequence, each until it is stored. The queue holds 256; beyond, the
// oldest waiting one is dropped, which the gap in the sequence shows.
// Heartbeats are not kept by anybody.
//
// # Ownership
//
// One goroutine owns all state of an agent. Programs, reads and publishes run
// on short-lived goroutines that only send it their result; the connection's
// callbacks only signal it. Nothing is global: thousands of agents run in one
// process.
package hostagent
