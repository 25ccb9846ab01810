package hostagent

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

func newSigner(t testing.TB) *access.Signer {
	t.Helper()
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	s, err := access.NewSigner(seed)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// pin writes the file of pinned keys.
func pin(t testing.TB, path string, signers ...*access.Signer) {
	t.Helper()
	var text strings.Builder
	text.WriteString("# pinned\n")
	for _, s := range signers {
		text.WriteString(s.Public() + "\n")
	}
	if err := replaceFile(path, []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// seal seals a record; a nil signer leaves it bare.
func seal(s *access.Signer, subject string, h subjects.Header, body []byte) {
	if s != nil {
		s.Seal(subject, h, body)
	}
}

// sealedRig is a rig whose agent believes one signer. The host has taken, and
// runs, generation 5.
type sealedRig struct {
	*rig
	signer *access.Signer
	seed   *state
}

func newSealedRig(t *testing.T) *sealedRig {
	r := &sealedRig{newRig(t), newSigner(t), nil}
	r.o.Reread = 50 * time.Millisecond
	r.o.Heartbeat = 100 * time.Millisecond
	r.o.Config.Trust = filepath.Join(t.TempDir(), "trust.txt")
	pin(t, r.o.Config.Trust, r.signer)
	r.seed = (&state{Format: stateFormat, Host: "h1"}).with(change(5, "a", docker("5"), nil)).withEnacted("docker_version", enactedValue{str("5"), 5})
	r.m.values["docker_version"] = "5"
	r.order(5)
	return r
}

// begin starts the agent with what the host has taken.
func (r *sealedRig) begin() {
	r.t.Helper()
	if err := (&agent{Options: r.o}).save(r.seed); err != nil {
		r.t.Fatal(err)
	}
	r.start()
	r.enacted(5, "docker_version", "5")
}

// record is a generation's as the scheduler seals it, with its value.
func (r *sealedRig) record(s *access.Signer, host rollout.Host, generation uint64) (subjects.Header, []byte) {
	r.t.Helper()
	c := change(generation, "a", docker(fmt.Sprint(generation)), nil)
	c.Host, c.Variable = host, "docker_version"
	h, body, err := c.Encode()
	if err != nil {
		r.t.Fatal(err)
	}
	seal(s, subjects.KindDesired.Subject(string(host)), h, body)
	return h, body
}

// order tells the host a generation as the scheduler does.
func (r *sealedRig) order(generation uint64) {
	r.t.Helper()
	h, body := r.record(r.signer, "h1", generation)
	r.put(subjects.KindDesired.Subject("h1"), h, body)
}

// forge stores a new generation after something was done to it.
func (r *sealedRig) forge(what func(h subjects.Header, body []byte) []byte) {
	r.t.Helper()
	h, body := r.record(r.signer, "h1", 6)
	r.put(subjects.KindDesired.Subject("h1"), h, what(h, body))
}

// epoch stores an epoch so far from this host's clock.
func (r *sealedRig) epoch(s *access.Signer, off time.Duration) {
	r.t.Helper()
	now := time.Now().Add(off)
	body, err := subjects.Encode(subjects.Epoch{Time: now})
	if err != nil {
		r.t.Fatal(err)
	}
	r.putEpoch(s, now, body)
}

func (r *sealedRig) putEpoch(s *access.Signer, now time.Time, body []byte) {
	r.t.Helper()
	h := subjects.Header{subjects.HeaderTime: {now.UTC().Format(time.RFC3339Nano)}}
	seal(s, subjects.KindEpoch.Subject(""), h, body)
	r.put(subjects.KindEpoch.Subject(""), h, body)
}

func (r *sealedRig) refusals() []subjects.HealthEvent {
	r.t.Helper()
	return slices.DeleteFunc(r.events(), func(e subjects.HealthEvent) bool { return e.Kind != subjects.HealthRefused })
}

// unmoved waits until the attack was refused with one event that says why, and
// holds the host to what it had.
func (r *sealedRig) unmoved(says string) {
	r.t.Helper()
	r.event(says, func(e subjects.HealthEvent) bool {
		return e.Kind == subjects.HealthRefused && strings.Contains(e.Output, says)
	})
	time.Sleep(4 * r.o.Reread) // it is read again, and the refusal isn't repeated
	if all := r.refusals(); len(all) != 1 {
		r.t.Errorf("%d refusals, want one: %+v", len(all), all)
	}
	if sets := r.m.setTo(); len(sets) != 0 {
		r.t.Errorf("enacted %v", sets)
	}
	s, err := loadState(r.o.Config.State, "h1")
	if err != nil || s.Generation != 5 || !sameValues(s.Values, docker("5")) {
		r.t.Errorf("the state is %+v, %v: want generation 5", s, err)
	}
	if p := r.report(); p.Generation != 5 || p.Actual["docker_version"] != str("5") {
		r.t.Errorf("the report is %+v", p)
	}
}

// What somebody does who holds the broker, or may write into the bucket, and has
// everything that the scheduler ever sealed.
func TestForgedOrders(t *testing.T) {
	own := subjects.KindDesired.Subject("h1")
	for _, tt := range []struct {
		name, says string
		attack     func(r *sealedRig)
	}{
		{"an older state again", "rolled back", func(r *sealedRig) { r.order(4) }},
		{"an older state with a forged sequence", "rolled back", func(r *sealedRig) {
			h, body := r.record(r.signer, "h1", 4)
			h["Nats-Sequence"], h["Nats-Subject"] = []string{"99999"}, []string{own}
			r.put(own, h, body)
		}},
		{"another host's state", "its seal is not over what it says", func(r *sealedRig) {
			h, body := r.record(r.signer, "h2", 6)
			r.put(own, h, body)
		}},
		{"a foreign key", "sealed by a key that isn't trusted here", func(r *sealedRig) {
			h, body := r.record(newSigner(t), "h1", 6)
			r.put(own, h, body)
		}},
		{"a foreign key under a pinned name", "its seal is not over what it says", func(r *sealedRig) {
			h, body := r.record(newSigner(t), "h1", 6)
			_, signature, _ := strings.Cut(h.Get(subjects.HeaderSeal), " ")
			h[subjects.HeaderSeal] = []string{r.signer.Public() + " " + signature}
			r.put(own, h, body)
		}},
		{"a stripped seal", "it bears no seal", func(r *sealedRig) {
			r.forge(func(h subjects.Header, body []byte) []byte { delete(h, subjects.HeaderSeal); return body })
		}},
		{"a second seal", "its seal is not over what it says", func(r *sealedRig) {
			r.forge(func(h subjects.Header, body []byte) []byte {
				h[subjects.HeaderSeal] = append(h[subjects.HeaderSeal], h[subjects.HeaderSeal][0])
				return body
			})
		}},
		{"another value", "its seal is not over what it says", func(r *sealedRig) {
			r.forge(func(_ subjects.Header, _ []byte) []byte { return []byte(`{"docker_version":"evil"}`) })
		}},
		{"a higher generation", "its seal is not over what it says", func(r *sealedRig) {
			r.forge(func(h subjects.Header, body []byte) []byte { h[subjects.HeaderGeneration] = []string{"7"}; return body })
		}},
		{"another reason", "its seal is not over what it says", func(r *sealedRig) {
			r.forge(func(h subjects.Header, body []byte) []byte {
				h[subjects.HeaderReason] = []string{`{"code":"pin"}`}
				return body
			})
		}},
		{"an extra header", "its seal is not over what it says", func(r *sealedRig) {
			r.forge(func(h subjects.Header, body []byte) []byte { h[subjects.HeaderActor] = []string{"ada"}; return body })
		}},
		{"an extra value of a header", "its seal is not over what it says", func(r *sealedRig) {
			r.forge(func(h subjects.Header, body []byte) []byte {
				h[subjects.HeaderRollout] = append(h[subjects.HeaderRollout], "evil")
				return body
			})
		}},
		{"the seal of an epoch", "its seal is not over what it says", func(r *sealedRig) {
			r.forge(func(h subjects.Header, body []byte) []byte {
				other := maps.Clone(h)
				r.signer.Seal(subjects.KindEpoch.Subject(""), other, body)
				h[subjects.HeaderSeal] = other[subjects.HeaderSeal]
				return body
			})
		}},
		{"a consumer that delivers another's into this host's subject", "desired.h2", func(r *sealedRig) {
			h, body := r.record(r.signer, "h2", 6)
			r.put(subjects.KindDesired.Subject("h2"), h, body)
			request := fmt.Sprintf(`{"stream_name":%q,"config":{"deliver_subject":%q,"filter_subject":%q,"ack_policy":"none","deliver_policy":"all","mem_storage":true,"num_replicas":1}}`,
				subjects.Stream, subjects.KindDesired.Echo("h1"), subjects.KindDesired.Subject("h2"))
			if m, err := r.nc.Request("$JS.API.CONSUMER.CREATE."+subjects.Stream, []byte(request), 5*time.Second); err != nil || strings.Contains(string(m.Data), `"error"`) {
				r.t.Fatalf("%v %s", err, m.Data)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newSealedRig(t)
			r.epoch(r.signer, 0)
			r.begin()
			tt.attack(r)
			r.unmoved(tt.says)
			r.order(8)
			r.enacted(8, "docker_version", "8")
		})
	}
}

// New state beside no epoch, or one that doesn't count, waits; what is taken
// already stays.
func TestEpochs(t *testing.T) {
	const old, ahead = -subjects.EpochFresh - time.Minute, subjects.EpochFresh + time.Minute
	for _, tt := range []struct {
		name, says string
		epoch      func(r *sealedRig)
	}{
		{"none", "the broker has no epoch", func(*sealedRig) {}},
		{"stale", "the broker is cut off from its scheduler, or this host's clock is fast", func(r *sealedRig) { r.epoch(r.signer, old) }},
		{"from the future", "this host's clock is slow", func(r *sealedRig) { r.epoch(r.signer, ahead) }},
		{"a foreign key's", "isn't the scheduler's: it is sealed by a key that isn't trusted here", func(r *sealedRig) { r.epoch(newSigner(t), 0) }},
		{"unsealed", "isn't the scheduler's: it bears no seal", func(r *sealedRig) { r.epoch(nil, 0) }},
		{"without a time", "can't be read", func(r *sealedRig) { r.putEpoch(r.signer, time.Now(), []byte(`{}`)) }},
		{"deleted", "isn't the scheduler's", func(r *sealedRig) {
			r.put(subjects.KindEpoch.Subject(""), subjects.Header{"KV-Operation": {"DEL"}}, nil)
		}},
		{"an order in its place", "isn't the scheduler's: its seal is not over what it says", func(r *sealedRig) {
			h, body := r.record(r.signer, "h1", 5)
			r.put(subjects.KindEpoch.Subject(""), h, body)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newSealedRig(t)
			r.begin()
			tt.epoch(r)
			r.order(6)
			p := r.reported("that it waits", func(p *rollout.Report) bool { return p.Enact["docker_version"].Status == rollout.Retrying })
			if e := p.Enact["docker_version"]; p.Generation != 5 || e.Generation != 6 || !strings.Contains(e.Error, "without a fresh epoch") {
				t.Errorf("%+v", p)
			}
			r.unmoved(tt.says)
			// It was refused for a time, not for good.
			r.epoch(r.signer, time.Second)
			r.enacted(6, "docker_version", "6")
		})
	}
}

// The host has seen an epoch; then its clock is put back, and the broker brings
// an epoch of that time, with an order that was withheld then.
func TestOlderEpochAfterNewer(t *testing.T) {
	r := newSealedRig(t)
	r.seed.Epoch = time.Now().Add(20 * time.Minute)
	r.epoch(r.signer, 0)
	r.begin()
	r.order(6)
	r.unmoved("is older than that of")
	// While what it has seen is fresh, an older one changes nothing.
	a := &agent{trust: trust{keyring: mustKeyring(t, r.signer)}}
	now := time.Now()
	a.epoch = now
	body, err := subjects.Encode(subjects.Epoch{Time: now.Add(-time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	h := subjects.Header{}
	r.signer.Seal(subjects.KindEpoch.Subject(""), h, body)
	a.learnEpoch(epochMsg(h, body), now)
	if !a.epoch.Equal(now) || a.unfresh(now) != nil {
		t.Errorf("the epoch is %v, %v: want the newer one, and fresh", a.epoch, a.unfresh(now))
	}
	if later := now.Add(subjects.EpochFresh + time.Second); a.unfresh(later) == nil {
		t.Error("an epoch is fresh for ever")
	}
}

// A host that hears of new state long after its last read reads the epoch first.
func TestEpochIsReadWhenNeeded(t *testing.T) {
	r := newSealedRig(t)
	r.o.Reread = time.Hour
	r.begin()
	r.epoch(r.signer, 0)
	r.order(6)
	r.enacted(6, "docker_version", "6")
	if all := r.refusals(); len(all) != 0 {
		t.Errorf("%+v", all)
	}
	if s, err := loadState(r.o.Config.State, "h1"); err != nil || time.Since(s.Epoch).Abs() > time.Minute {
		t.Errorf("the state's epoch is %v, %v: want that beside which it was taken", s.Epoch, err)
	}
}

// The sealing key is replaced while the agent runs: first both are pinned, then
// the new one alone.
func TestSealRotation(t *testing.T) {
	r := newSealedRig(t)
	r.epoch(r.signer, 0)
	r.begin()
	before, after := r.signer, newSigner(t)
	replaced := func(n int) {
		await(t, "the pinned keys to be replaced", func() bool { return strings.Count(r.log.String(), "the pinned keys were replaced") == n })
	}
	pin(t, r.o.Config.Trust, before, after)
	replaced(1)
	r.signer = after
	r.order(6)
	r.enacted(6, "docker_version", "6")
	// A file that isn't one of keys changes nothing.
	if err := os.WriteFile(r.o.Config.Trust, []byte("nonsense\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	await(t, "a word about the file", func() bool { return strings.Contains(r.log.String(), "changed credentials or keys can't be used") })
	r.order(7)
	r.enacted(7, "docker_version", "7")
	r.epoch(after, 0)
	pin(t, r.o.Config.Trust, after)
	replaced(2)
	r.signer = before
	r.order(8)
	r.event("the old key", func(e subjects.HealthEvent) bool {
		return e.Kind == subjects.HealthRefused && strings.Contains(e.Output, "isn't trusted here")
	})
	r.signer = after
	r.order(9)
	r.enacted(9, "docker_version", "9")
	if sets := r.m.setTo(); !slices.Equal(sets, []string{"docker_version=6", "docker_version=7", "docker_version=9"}) {
		t.Errorf("enacted %v", sets)
	}
}
