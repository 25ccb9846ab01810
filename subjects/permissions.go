package subjects

import (
	"slices"
	"time"
)

// Permission is one subject, or pattern of subjects, that a role may use, in
// the broker's template language: {{name()}} is the identity's name and
// {{subject()}} its public key.
type Permission struct {
	Subject string
	Why     string
}

// Permissions are all that a role may do on the broker. Whatever isn't listed
// is denied.
type Permissions struct {
	Publish, Subscribe []Permission
	// Answers is how many messages may be published to the reply subject of a
	// message that was received, within AnswerTime; 0: none.
	Answers    int
	AnswerTime time.Duration
}

// Verb is the end of a request's subject, tsunami.api.<actor>.<verb>.
type Verb = string

// ReadingVerbs are the requests that change nothing, which every person may
// make.
var ReadingVerbs = []Verb{
	"get", "variable.list", "rollout.list", "rollout.show", "rollout.plan",
	"host.list", "host.show", "blackout.list", "objective.list", "status", "why",
}

// ApprovingVerbs are what an approver may ask for beside reading.
var ApprovingVerbs = []Verb{"rollout.approve"}

// MayAsk says whether a role may make a request.
func MayAsk(r Role, v Verb) bool {
	switch r {
	case RoleOperator, RoleAdmin:
		return true
	case RoleApprover:
		return slices.Contains(ReadingVerbs, v) || slices.Contains(ApprovingVerbs, v)
	case RoleViewer:
		return slices.Contains(ReadingVerbs, v)
	}
	return false
}

const (
	ofName  = "{{name()}}"
	ofKey   = "{{subject()}}"
	jsAPI   = "$JS.API."
	inboxes = "_INBOX_"
)

var allStreams = []string{Stream, HostsStream, AuditStream, EvidenceStream}

// PermissionsOf gives what a role may do. It is what identities are issued
// with, what docs/permissions.md shows, and what the tests try.
func PermissionsOf(r Role) Permissions {
	var p Permissions
	publish := func(why string, subjects ...string) {
		for _, s := range subjects {
			p.Publish = append(p.Publish, Permission{s, why})
		}
	}
	subscribe := func(why string, subjects ...string) {
		for _, s := range subjects {
			p.Subscribe = append(p.Subscribe, Permission{s, why})
		}
	}
	keys := func(kinds ...Kind) (out []string) {
		for _, k := range kinds {
			out = append(out, k.Pattern())
		}
		return out
	}
	// reading is what a part needs to read the four streams.
	reading := func(streams ...string) {
		for _, s := range streams {
			publish("read stream "+s,
				jsAPI+"STREAM.INFO."+s, jsAPI+"STREAM.MSG.GET."+s,
				jsAPI+"CONSUMER.CREATE."+s+".>", jsAPI+"CONSUMER.INFO."+s+".*", jsAPI+"CONSUMER.DELETE."+s+".*",
				jsAPI+"CONSUMER.MSG.NEXT."+s+".*")
		}
	}
	asking := func(verbs ...Verb) {
		for _, v := range verbs {
			publish("ask the service", API+ofName+"."+v)
		}
	}
	// looking is what the nats command needs beside, for kv, stream and micro.
	looking := func() {
		reading(allStreams...)
		publish("the nats command's kv and stream", jsAPI+"INFO", jsAPI+"STREAM.NAMES", jsAPI+"STREAM.LIST")
		for _, s := range allStreams {
			publish("the nats command's kv and stream", jsAPI+"DIRECT.GET."+s, jsAPI+"DIRECT.GET."+s+".>",
				jsAPI+"CONSUMER.CREATE."+s, jsAPI+"CONSUMER.NAMES."+s, jsAPI+"CONSUMER.LIST."+s)
		}
		publish("flow control and acknowledgements of consumers", "$JS.FC.>", "$JS.ACK.>")
		publish("the nats command's micro", "$SRV.>")
		subscribe("answers to what one asks for", PersonInbox(ofName)+".>")
	}
	braking := func() {
		publish("abort a rollout, whatever else is down", keyPrefix+string(KindAbort)+".*")
		publish("the red button", KindStop.Subject(""))
	}
	own := func() { subscribe("answers to what it asks for", KeyInbox(ofKey)+".>") }

	switch r {
	case RoleAgent:
		publish("its health events", healthPrefix+ofName)
		publish("its heartbeats", alivePrefix+ofName)
		publish("its report in the inventory", hostsPrefix+ofName)
		publish("read its own desired state", directGet+KindDesired.Subject(ofName))
		publish("read the epoch", DirectGetEpoch)
		subscribe("its own desired state", KindDesired.Echo(ofName))
		own()
	case RoleScheduler:
		publish("write the records that are its own", keys(
			KindDesired, KindRollout, KindProgress, KindVariable, KindObjective, KindBlackout, KindPin, KindLeader, KindEpoch)...)
		publish("release the red button", KindStop.Subject(""))
		reading(allStreams...)
		subscribe("operators' requests", API+"*.>")
		subscribe("be found as a micro service", "$SRV.>")
		subscribe("hosts' heartbeats", AllAlive)
		own()
		p.Answers, p.AnswerTime = 64, time.Minute // a large answer comes in parts
	case RoleSloguard:
		publish("abort a rollout", keyPrefix+string(KindAbort)+".*")
		publish("its lease", KindGuard.Subject(""))
		publish("record hosts' silence", AllSilence)
		publish("record what Prometheus says", AllSignals)
		reading(allStreams...)
		subscribe("hosts' heartbeats", AllAlive)
		own()
	case RoleSetup:
		publish("see what the broker can do", jsAPI+"INFO")
		for _, s := range allStreams {
			publish("make or check stream "+s, jsAPI+"STREAM.INFO."+s, jsAPI+"STREAM.CREATE."+s)
		}
		own()
	case RoleJoiner:
		publish("count the uses of join tokens", KindJoin.Pattern())
		publish("see who used one", jsAPI+"STREAM.MSG.GET."+Stream)
		publish("see whose name is taken", jsAPI+"STREAM.MSG.GET."+HostsStream)
		own()
	case RoleAlerter:
		publish("record what Alertmanager says", AllAlerts)
		own()
	case RoleViewer:
		looking()
		asking(ReadingVerbs...)
	case RoleApprover:
		looking()
		asking(ReadingVerbs...)
		asking(ApprovingVerbs...)
	case RoleOperator:
		looking()
		asking(">")
		braking()
	case RoleAdmin:
		looking()
		asking(">")
		publish("put right by hand what nothing else can", AllKeys, AllHosts)
	}
	return p
}
