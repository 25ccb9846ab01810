package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

const (
	// history is how many records of a key the bucket keeps, the most that a
	// bucket may. The audit log sources the stream and can fall behind; a record
	// that leaves the history before it is sourced is lost to it.
	history = 64

	// hostsHistory is how many reports of a host are kept. A change makes a
	// handful of them (told, running, done, a check red, green), so 8 lets the
	// evidence stream be a change behind without missing one, and shows a person
	// how a host got where it is. 100,000 hosts × 8 × 1 KB stay under a gigabyte.
	hostsHistory = 8

	// evidenceAge is how long evidence is kept: twice the longest ramp, because
	// holds and windows make a rollout longer than its ramp.
	evidenceAge = 2 * time.Duration(rollout.MaxOver)
)

// streams are the four of design.md §4. All are files, uncompressed (a
// compressed replica didn't survive kill -9 of nats-server 2.15.2), and deny
// everything that could take a record away: deletion, purges, rollup headers
// and time-to-live headers.
func streams(replicas int) []jetstream.StreamConfig {
	base := jetstream.StreamConfig{
		Retention:         jetstream.LimitsPolicy,
		Storage:           jetstream.FileStorage,
		Replicas:          replicas,
		MaxConsumers:      -1,
		MaxMsgs:           -1,
		MaxBytes:          -1,
		MaxMsgSize:        -1,
		MaxMsgsPerSubject: -1,
		DenyDelete:        true,
		DenyPurge:         true,
		Compression:       jetstream.NoCompression,
	}

	bucket := base
	bucket.Name = subjects.Stream
	bucket.Description = "Tsunami: all control state, as the KV bucket " + subjects.Bucket
	bucket.Subjects = []string{subjects.AllKeys}
	bucket.MaxMsgsPerSubject = history
	bucket.Discard = jetstream.DiscardNew
	bucket.AllowDirect = true
	bucket.AllowAtomicPublish = true
	bucket.RePublish = &jetstream.RePublish{Source: subjects.AllKeys, Destination: subjects.AllEchoes}

	hosts := base
	hosts.Name = subjects.HostsStream
	hosts.Description = "Tsunami: the inventory, as the KV bucket " + subjects.HostsBucket
	hosts.Subjects = []string{subjects.AllHosts}
	hosts.MaxMsgsPerSubject = hostsHistory
	hosts.MaxMsgSize = MaxHeader // with its header: hosts write here, and see there
	hosts.Discard = jetstream.DiscardNew
	hosts.AllowDirect = true

	// A stream on tsunami.> itself would take in the echoes and loop: the audit
	// log has no subjects of its own, the evidence stream has four narrow ones.
	audit := base
	audit.Name = subjects.AuditStream
	audit.Description = "Tsunami: the audit log, every change as it was committed"
	audit.Sources = []*jetstream.StreamSource{source(subjects.Stream, auditTransforms())}

	evidence := base
	evidence.Name = subjects.EvidenceStream
	evidence.Description = "Tsunami: all that the guard judges by, in one order"
	evidence.Subjects = []string{subjects.AllHealth, subjects.AllSilence, subjects.AllSignals, subjects.AllAlerts}
	evidence.MaxAge = evidenceAge
	evidence.Sources = []*jetstream.StreamSource{
		source(subjects.Stream, evidenceTransforms()),
		source(subjects.HostsStream, []jetstream.SubjectTransformConfig{{Source: subjects.AllHosts, Destination: subjects.EvidencePattern(subjects.KindHost)}}),
	}
	return []jetstream.StreamConfig{bucket, hosts, audit, evidence}
}

// source names a stream once, with all transforms, so that its records stay in
// their order. The transforms are the filter too.
func source(stream string, transforms []jetstream.SubjectTransformConfig) *jetstream.StreamSource {
	return &jetstream.StreamSource{Name: stream, SubjectTransforms: transforms}
}

func auditTransforms() []jetstream.SubjectTransformConfig {
	var all []jetstream.SubjectTransformConfig
	for _, k := range subjects.Audited {
		all = append(all, jetstream.SubjectTransformConfig{Source: k.Pattern(), Destination: subjects.AuditPattern(k)})
	}
	return all
}

func evidenceTransforms() []jetstream.SubjectTransformConfig {
	var all []jetstream.SubjectTransformConfig
	for _, k := range subjects.EvidenceKinds {
		all = append(all, jetstream.SubjectTransformConfig{Source: k.Pattern(), Destination: subjects.EvidencePattern(k)})
	}
	return all
}

// Drift is one difference between a stream as it must be and as it is.
type Drift struct {
	Stream string
	Field  string // by its name in the broker's JSON, as `nats stream info -j` shows it
	Want   string
	Have   string
}

// DriftError says that streams exist with another configuration than Tsunami
// relies on.
type DriftError struct{ Drifts []Drift }

func (e *DriftError) Error() string {
	var b strings.Builder
	b.WriteString("the broker's streams aren't as Tsunami needs them, and it doesn't change what exists:")
	for _, d := range e.Drifts {
		fmt.Fprintf(&b, "\n  stream %s: %s is %s, want %s", d.Stream, d.Field, d.Have, d.Want)
	}
	return b.String()
}

// Setup makes the four streams with so many replicas (1, 3 or 5), and compares
// those that exist with what they must be. It never changes a stream: where
// one differs the error is a *DriftError that lists every difference. Any
// number of processes may call it at once. A context without a deadline is
// given 5 s a stream.
func Setup(ctx context.Context, js jetstream.JetStream, replicas int) error {
	if !slices.Contains([]int{1, 3, 5}, replicas) {
		return fmt.Errorf("setting up the streams: %d replicas: want 1, 3 or 5", replicas)
	}
	drift := &DriftError{}
	for _, want := range streams(replicas) {
		have, err := ensure(ctx, js, want)
		if err != nil {
			return fmt.Errorf("setting up stream %s: %w", want.Name, err)
		}
		drift.Drifts = append(drift.Drifts, compare(want, *have)...)
	}
	if len(drift.Drifts) > 0 {
		return drift
	}
	return nil
}

// ensure returns the stream's configuration, of the one that was there if there
// was one.
func ensure(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig) (*jetstream.StreamConfig, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	s, err := js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		// The broker takes a second creation with the same configuration as
		// done; with another it says that the name is in use.
		s, err = js.CreateStream(ctx, want)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			s, err = js.Stream(ctx, want.Name)
		}
	}
	if err != nil {
		return nil, err
	}
	return &s.CachedInfo().Config, nil
}

// compare lists the differences in every field that something relies on. Left
// to the operator are the description, the metadata, the placement and the
// window for duplicates.
func compare(want, have jetstream.StreamConfig) []Drift {
	var all []Drift
	field := func(name string, want, have any) {
		if w, h := fmt.Sprint(want), fmt.Sprint(have); w != h {
			all = append(all, Drift{Field: name, Want: w, Have: h})
		}
	}
	field("subjects", list(want.Subjects), list(have.Subjects))
	field("retention", want.Retention, have.Retention)
	field("storage", want.Storage, have.Storage)
	field("num_replicas", want.Replicas, have.Replicas)
	field("max_consumers", limit(want.MaxConsumers), limit(have.MaxConsumers))
	field("max_msgs", limit(want.MaxMsgs), limit(have.MaxMsgs))
	field("max_bytes", limit(want.MaxBytes), limit(have.MaxBytes))
	field("max_age", age(want.MaxAge), age(have.MaxAge))
	field("max_msg_size", limit(want.MaxMsgSize), limit(have.MaxMsgSize))
	field("max_msgs_per_subject", limit(want.MaxMsgsPerSubject), limit(have.MaxMsgsPerSubject))
	field("discard", want.Discard, have.Discard)
	field("discard_new_per_subject", want.DiscardNewPerSubject, have.DiscardNewPerSubject)
	field("no_ack", want.NoAck, have.NoAck)
	field("sealed", want.Sealed, have.Sealed)
	field("deny_delete", want.DenyDelete, have.DenyDelete)
	field("deny_purge", want.DenyPurge, have.DenyPurge)
	field("allow_rollup_hdrs", want.AllowRollup, have.AllowRollup)
	field("allow_msg_ttl", want.AllowMsgTTL, have.AllowMsgTTL)
	field("subject_delete_marker_ttl", want.SubjectDeleteMarkerTTL, have.SubjectDeleteMarkerTTL)
	field("allow_msg_counter", want.AllowMsgCounter, have.AllowMsgCounter)
	field("allow_msg_schedules", want.AllowMsgSchedules, have.AllowMsgSchedules)
	field("allow_atomic", want.AllowAtomicPublish, have.AllowAtomicPublish)
	field("allow_batched", want.AllowBatchPublish, have.AllowBatchPublish)
	field("persist_mode", want.PersistMode, have.PersistMode)
	field("compression", want.Compression, have.Compression)
	field("allow_direct", want.AllowDirect, have.AllowDirect)
	field("mirror_direct", want.MirrorDirect, have.MirrorDirect)
	field("mirror", mirror(want.Mirror), mirror(have.Mirror))
	field("sources", sources(want.Sources), sources(have.Sources))
	field("subject_transform", transform(want.SubjectTransform), transform(have.SubjectTransform))
	field("republish", republish(want.RePublish), republish(have.RePublish))
	field("consumer_limits", want.ConsumerLimits, have.ConsumerLimits)
	for i := range all {
		all[i].Stream = want.Name
	}
	return all
}

// The functions below put settings into words, so that they compare and read.

func list(s []string) string {
	if len(s) == 0 {
		return "none"
	}
	s = slices.Clone(s)
	slices.Sort(s)
	return strings.Join(s, ", ")
}

// limit gives one word for what the broker writes as -1 or 0.
func limit[N int | int32 | int64](n N) string {
	if n <= 0 {
		return "unlimited"
	}
	return fmt.Sprint(n)
}

func age(d time.Duration) string {
	if d == 0 {
		return "unlimited"
	}
	return d.String()
}

func republish(r *jetstream.RePublish) string {
	if r == nil {
		return "none"
	}
	s := r.Source + " to " + r.Destination
	if r.HeadersOnly {
		s += " without bodies"
	}
	return s
}

func transform(t *jetstream.SubjectTransformConfig) string {
	if t == nil || *t == (jetstream.SubjectTransformConfig{}) {
		return "none"
	}
	return t.Source + " to " + t.Destination
}

func mirror(s *jetstream.StreamSource) string {
	if s == nil {
		return "none"
	}
	return sources([]*jetstream.StreamSource{s})
}

func sources(all []*jetstream.StreamSource) string {
	var words []string
	for _, s := range all {
		w := s.Name
		var parts []string
		for _, t := range s.SubjectTransforms {
			parts = append(parts, t.Source+" to "+t.Destination)
		}
		if s.FilterSubject != "" {
			parts = append(parts, "only "+s.FilterSubject)
		}
		if s.OptStartSeq > 0 {
			parts = append(parts, fmt.Sprintf("from sequence %d", s.OptStartSeq))
		}
		if s.OptStartTime != nil {
			parts = append(parts, "from "+s.OptStartTime.Format(time.RFC3339))
		}
		if s.External != nil {
			parts = append(parts, "of "+s.External.APIPrefix)
		}
		slices.Sort(parts)
		if len(parts) > 0 {
			w += " (" + strings.Join(parts, ", ") + ")"
		}
		words = append(words, w)
	}
	return list(words)
}
