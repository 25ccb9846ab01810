package subjects

import (
	"fmt"
	"strings"

	"github.com/tsunami-rollouts/tsunami/rollout"
)

// The streams and buckets.
const (
	Bucket         = "tsunami"
	HostsBucket    = "tsunami_hosts"
	Stream         = "KV_" + Bucket
	HostsStream    = "KV_" + HostsBucket
	AuditStream    = "TSUNAMI_AUDIT"
	EvidenceStream = "TSUNAMI_EVIDENCE"

	keyPrefix      = "$KV." + Bucket + "."
	hostsPrefix    = "$KV." + HostsBucket + "."
	echoPrefix     = "tsunami."
	auditPrefix    = "tsunami.audit."
	evidencePrefix = "tsunami.evidence."
	alivePrefix    = "tsunami.alive."
	healthPrefix   = "tsunami.health."
	silencePrefix  = "tsunami.silence."
	signalPrefix   = "tsunami.signal."
	alertPrefix    = "tsunami.alert."
	directGet      = "$JS.API.DIRECT.GET." + Stream + "."
)

// API is the beginning of every request's subject; the caller's name and the
// verb follow.
const API = "tsunami.api."

// Subject patterns for streams and subscriptions.
const (
	AllKeys     = keyPrefix + ">"
	AllEchoes   = echoPrefix + ">"
	AllHosts    = hostsPrefix + ">"
	AllAlive    = alivePrefix + ">"
	AllHealth   = healthPrefix + ">"
	AllSilence  = silencePrefix + ">"
	AllSignals  = signalPrefix + ">"
	AllAlerts   = alertPrefix + ">"
	AllAudit    = auditPrefix + ">"
	AllEvidence = evidencePrefix + ">"
)

// Kind is the first token of a key in the bucket.
type Kind string

// The kinds of keys. Leader, Guard, Epoch and Stop are whole keys; the others
// are followed by a dot and a name.
const (
	KindDesired   Kind = "desired"
	KindRollout   Kind = "rollout"
	KindProgress  Kind = "progress"
	KindAbort     Kind = "abort"
	KindStop      Kind = "stop"
	KindVariable  Kind = "variable"
	KindObjective Kind = "objective"
	KindBlackout  Kind = "blackout"
	KindPin       Kind = "pin"
	KindLeader    Kind = "leader"
	KindGuard     Kind = "guard"
	KindEpoch     Kind = "epoch"
	KindJoin      Kind = "join" // a use of a join token
)

// The kinds of evidence that aren't kinds of keys.
const (
	KindHost    Kind = "host"    // a record of the inventory
	KindHealth  Kind = "health"  // a HealthEvent
	KindSilence Kind = "silence" // a Silence
	KindSignal  Kind = "signal"  // a Signal
	KindAlert   Kind = "alert"   // Alerts
)

// Audited are the kinds that the audit log keeps.
var Audited = []Kind{KindDesired, KindRollout, KindAbort, KindStop, KindVariable, KindObjective, KindBlackout, KindPin, KindJoin}

// EvidenceKinds are the kinds that the evidence stream sources from the
// bucket, beside the inventory.
var EvidenceKinds = []Kind{KindDesired, KindRollout, KindAbort, KindObjective}

// Key is the bucket's key of a kind and a name; the name is empty for the
// kinds that are whole keys.
func (k Kind) Key(name string) string {
	if name == "" {
		return string(k)
	}
	return string(k) + "." + name
}

// Subject is the subject that stores the key.
func (k Kind) Subject(name string) string { return keyPrefix + k.Key(name) }

// Echo is the subject on which the key is echoed.
func (k Kind) Echo(name string) string { return echoPrefix + k.Key(name) }

// Pattern matches every subject of the kind in the bucket.
func (k Kind) Pattern() string {
	switch k {
	case KindStop, KindLeader, KindGuard, KindEpoch:
		return k.Subject("")
	}
	return k.Subject(">")
}

// ParseKey splits a bucket subject ($KV.tsunami.…) or an audit subject
// (tsunami.audit.…) into kind and name. It returns an error for other
// subjects.
func ParseKey(subject string) (Kind, string, error) {
	key, ok := strings.CutPrefix(subject, keyPrefix)
	if !ok {
		key, ok = strings.CutPrefix(subject, auditPrefix)
	}
	if !ok || key == "" {
		return "", "", fmt.Errorf("%q isn't a key of bucket %s", subject, Bucket)
	}
	kind, name, _ := strings.Cut(key, ".")
	return Kind(kind), name, nil
}

// ParseEvidence splits a subject of the evidence stream into kind and name. It
// returns an error for other subjects.
func ParseEvidence(subject string) (Kind, string, error) {
	for kind, prefix := range map[Kind]string{
		KindHealth: healthPrefix, KindSilence: silencePrefix, KindSignal: signalPrefix, KindAlert: alertPrefix,
	} {
		if name, ok := strings.CutPrefix(subject, prefix); ok {
			return kind, name, nil
		}
	}
	rest, ok := strings.CutPrefix(subject, evidencePrefix)
	kind, name, found := strings.Cut(rest, ".")
	if !ok || !found {
		return "", "", fmt.Errorf("%q isn't a subject of stream %s", subject, EvidenceStream)
	}
	return Kind(kind), name, nil
}

// EvidencePattern matches every record of the kind that the evidence stream
// sources from the bucket or, for KindHost, from the inventory.
func EvidencePattern(k Kind) string { return evidencePrefix + string(k) + ".>" }

// EvidenceOf is where the evidence stream keeps such a record.
func EvidenceOf(k Kind, name string) string { return evidencePrefix + string(k) + "." + name }

// AuditSubject is where the audit log keeps the key.
func AuditSubject(k Kind, name string) string { return auditPrefix + k.Key(name) }

// AuditPattern matches every audit record of the kind.
func AuditPattern(k Kind) string { return auditPrefix + strings.TrimPrefix(k.Pattern(), keyPrefix) }

// HostSubject stores the host's report in the inventory.
func HostSubject(h rollout.Host) string { return hostsPrefix + string(h) }

// Alive is where a host's heartbeats go: core NATS, kept by nobody.
func Alive(h rollout.Host) string { return alivePrefix + string(h) }

// Health is where a host's health events go, into the evidence stream.
func Health(h rollout.Host) string { return healthPrefix + string(h) }

// SilenceOf is where the guard records that a host has fallen silent or is heard
// again.
func SilenceOf(h rollout.Host) string { return silencePrefix + string(h) }

// Listening is where the guard records that it has been listening. No host has
// such a name.
const Listening = silencePrefix + "_guard"

// SignalOf is where the guard records what Prometheus says for an objective.
func SignalOf(objective rollout.ID) string { return signalPrefix + string(objective) }

// AlertsReceived is where what Alertmanager says is recorded.
const AlertsReceived = alertPrefix + "received"

// HostOf takes the host's name from an inventory, heartbeat, health or
// desired-state subject, and checks it. Receivers call it with the message's
// own subject, never the subscription's.
func HostOf(subject string) (rollout.Host, error) {
	for _, p := range []string{hostsPrefix, alivePrefix, healthPrefix, KindDesired.Subject(""), KindDesired.Echo("")} {
		p = strings.TrimSuffix(p, ".") + "."
		if name, ok := strings.CutPrefix(subject, p); ok {
			return rollout.ParseHost(name)
		}
	}
	return "", fmt.Errorf("subject %q names no host", subject)
}

// DirectGetDesired is the Direct Get request subject of one host's desired
// state, with an empty payload. Beside it a host may read the epoch alone.
func DirectGetDesired(h rollout.Host) string {
	return directGet + KindDesired.Subject(string(h))
}

// DirectGetEpoch is that of the epoch.
var DirectGetEpoch = directGet + KindEpoch.Subject("")
