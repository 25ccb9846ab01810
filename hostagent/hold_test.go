package hostagent

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/rollout"
)

// hold puts the hold file there; release takes it away.
func (r *rig) hold(text string) (release func()) {
	r.t.Helper()
	path := filepath.Join(r.o.Config.State, holdFile)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			r.t.Fatal(err)
		}
	}
}

// desired is what desired.json says; empty where it isn't there.
func (r *rig) desired() string {
	b, err := os.ReadFile(filepath.Join(r.o.Config.State, desiredFile))
	if err != nil && !os.IsNotExist(err) {
		r.t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// heldBack says whether a report holds back a document of a generation: it
// isn't among what the host has taken, so nothing of it counts as confirmed.
func heldBack(name rollout.Name, generation uint64, why string) func(*rollout.Report) bool {
	return func(p *rollout.Report) bool {
		e := p.Enact[name]
		return p.Held == why && p.Generation < generation && e.Generation == generation &&
			e.Status == rollout.Retrying && e.Error == "held back: "+why
	}
}

func TestHold(t *testing.T) {
	r := newRig(t)
	r.o.Heartbeat = 100 * time.Millisecond
	stop := r.start()
	r.tell(change(1, "a", docker("1"), nil))
	r.enacted(1, "docker_version", "1")
	release := r.hold("ticket 812, until Friday\nask the night shift\n")
	const why = "ticket 812, until Friday"
	r.reported("held", func(p *rollout.Report) bool {
		return p.Held == why && p.Enact["docker_version"].Status == rollout.Enacted
	})

	r.tell(change(2, "b", docker("2"), nil))
	r.reported("held back", heldBack("docker_version", 2, why))
	r.tell(change(3, "c", rollout.Document{"docker_version": str("3"), "file_only": str("x")}, nil))
	r.reported("the newer one held back", heldBack("file_only", 3, why))
	// It goes on observing.
	r.m.with(func() { r.m.values["docker_version"] = "0.5" })
	r.reported("drifted", func(p *rollout.Report) bool { return p.Actual["docker_version"] == str("0.5") })
	// Another agent on the same disk holds too.
	stop()
	boot := r.report().Boot
	stop = r.start()
	r.reported("held after a restart", func(p *rollout.Report) bool {
		return p.Boot != boot && heldBack("docker_version", 3, why)(p)
	})
	if sets := r.m.setTo(); !slices.Equal(sets, []string{"docker_version=1"}) || r.desired() != `{"docker_version":"1"}` {
		t.Errorf("enacted %v, and desired.json is %s", sets, r.desired())
	}
	release()
	p := r.enacted(3, "docker_version", "3")
	if p.Held != "" || p.Enact["file_only"].Status != rollout.Unenacted || p.Enact["file_only"].Error != "" {
		t.Errorf("%+v", p)
	}
	if sets := r.m.setTo(); !slices.Equal(sets, []string{"docker_version=1", "docker_version=3"}) {
		t.Errorf("enacted %v", sets)
	}
	if want := `{"docker_version":"3","file_only":"x"}`; r.desired() != want {
		t.Errorf("desired.json is %s, want %s", r.desired(), want)
	}
	stop()
}

// The file is obeyed from when it is there, not from when it was looked for.
func TestHoldIsObeyedAtOnce(t *testing.T) {
	r := newRig(t)
	r.o.Heartbeat = time.Hour
	r.start()
	r.reported("any", func(p *rollout.Report) bool { return p.Boot != "" })
	r.hold("")
	r.tell(change(1, "a", docker("1"), nil))
	r.reported("held back", heldBack("docker_version", 1, filepath.Join(r.o.Config.State, holdFile)+" is there"))
	if sets := r.m.setTo(); len(sets) != 0 || r.desired() != "" {
		t.Errorf("enacted %v, and desired.json is %s", sets, r.desired())
	}
}

// A hold lets a running enactor end, and stops the attempts that would follow.
func TestHoldBetweenAttempts(t *testing.T) {
	r := newRig(t)
	r.o.Heartbeat = 100 * time.Millisecond
	hold := make(chan struct{})
	r.m.hold = hold
	r.start()
	r.tell(change(1, "a", rollout.Document{"docker_version": str("1"), "flag": str("on")}, nil))
	<-r.m.begun // docker_version's
	release := r.hold("wait")
	r.reported("held", func(p *rollout.Report) bool { return p.Held == "wait" })
	close(hold)
	p := r.enacted(1, "docker_version", "1")
	if e := p.Enact["flag"]; e.Status != rollout.Retrying || e.Error != "held back: wait" {
		t.Errorf("%+v", p)
	}
	time.Sleep(200 * time.Millisecond)
	if sets := r.m.setTo(); !slices.Equal(sets, []string{"docker_version=1"}) {
		t.Errorf("enacted %v", sets)
	}
	release()
	if p := r.enacted(1, "flag", "on"); p.Enact["flag"].Error != "" {
		t.Errorf("%+v", p)
	}
}

// Killed after state.json was written and before the files were; held since.
func TestHoldKeepsTheFilesAsTheyWere(t *testing.T) {
	r := newRig(t)
	r.o.Heartbeat = 100 * time.Millisecond
	if err := (&agent{Options: r.o}).save((&state{Format: stateFormat, Host: "h1"}).with(change(2, "b", docker("2"), nil))); err != nil {
		t.Fatal(err)
	}
	release := r.hold("wait")
	r.start()
	r.reported("held back", func(p *rollout.Report) bool {
		e := p.Enact["docker_version"]
		return p.Held == "wait" && p.Generation == 2 && e.Status == rollout.Retrying && e.Error == "held back: wait"
	})
	if r.desired() != "" {
		t.Errorf("desired.json is %s", r.desired())
	}
	release()
	r.enacted(2, "docker_version", "2")
	if r.desired() != `{"docker_version":"2"}` {
		t.Errorf("desired.json is %s", r.desired())
	}
}

func TestObserveOnly(t *testing.T) {
	r := newRig(t)
	r.o.ObserveOnly = true
	r.m.values["docker_version"] = "1"
	stop := r.start()
	r.tell(change(1, "a", rollout.Document{"docker_version": str("1"), "flag": str("on")}, nil))
	r.tell(change(2, "b", docker("2"), nil))
	p := r.reported("held back", heldBack("docker_version", 2, "observe-only"))
	if p.Actual["docker_version"] != str("1") {
		t.Errorf("%+v", p)
	}
	r.hold("ticket 812")
	stop()
	stop = r.start()
	r.reported("both", func(p *rollout.Report) bool { return p.Held == "observe-only; ticket 812" })
	stop()
	if sets := r.m.setTo(); len(sets) != 0 || r.desired() != "" {
		t.Errorf("enacted %v, and desired.json is %s", sets, r.desired())
	}
	if _, err := os.Stat(filepath.Join(r.o.Config.State, stateFile)); !os.IsNotExist(err) {
		t.Errorf("state.json: %v", err)
	}
}

func TestReadHold(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	put := func(name, text string) {
		if err := os.WriteFile(path(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("text", "\n ticket 812 \nmore")
	put("empty", "")
	put("binary", "a\x00\x1b[2J\xff b")
	put("long", strings.Repeat("é", 10_000))
	put("secret", "the password")
	if err := os.Mkdir(path("directory"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path("secret"), path("link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path("nowhere"), path("dangling")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(path("pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"none":        "",
		"none/either": "",
		"text":        "ticket 812",
		"empty":       path("empty") + " is there",
		"binary":      "a[2J\uFFFD b",
		"directory":   path("directory") + " is there",
		"pipe":        path("pipe") + " is there",
		"link":        path("link") + " is there, and is a link",
		"dangling":    path("dangling") + " is there, and is a link",
	} {
		if got := readHold(path(name)); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if got := readHold(path("text/hold")); !strings.Contains(got, "can't tell whether there is a hold file") {
		t.Errorf("a file in a directory's place: %q", got)
	}
	if got := readHold(path("long")); len(got) > maxHeld || !strings.HasPrefix(got, "é") {
		t.Errorf("%d bytes: %q", len(got), got)
	}
}

// The file appears while an attempt is under way, and nobody has looked since.
func TestHoldBeforeTheNextStep(t *testing.T) {
	for _, program := range []string{"get", "set"} {
		t.Run(program, func(t *testing.T) {
			r := newRig(t)
			r.o.Heartbeat, r.o.Observe = time.Hour, time.Hour
			told, ran := make(chan struct{}), make(chan struct{})
			r.m.fault = func(c Command) error {
				if c.Args[0] == program {
					select {
					case <-told:
						r.hold("wait")
					default:
					}
				}
				if c.Args[0] == "set" {
					ran <- struct{}{}
				}
				return failing("set")(c)
			}
			r.start()
			r.reported("any", func(p *rollout.Report) bool { return p.Boot != "" })
			close(told)
			r.tell(change(1, "a", docker("1"), nil))
			if program == "set" {
				<-ran
			}
			r.reported("held", func(p *rollout.Report) bool {
				e := p.Enact["docker_version"]
				return p.Held == "wait" && p.Generation == 1 && e.Status == rollout.Retrying && e.Error == "held back: wait"
			})
			select {
			case <-ran:
				t.Error("it went on to the enactor")
			case <-time.After(200 * time.Millisecond):
			}
		})
	}
}

// A hold that ends finishes what a full disk had begun.
func TestHoldOverUnwritableFacts(t *testing.T) {
	r := newRig(t)
	r.o.Heartbeat = 100 * time.Millisecond
	r.o.Config.Facts = filepath.Join(t.TempDir(), "tsunami.json")
	r.o.Config.Checks = map[rollout.ID]Check{"docker": {Exec: []string{"check", "docker"}}}
	clear := obstruct(t, r.o.Config.Facts)
	r.start()
	r.tell(change(1, "a", rollout.Document{"file_only": str("x")}, nil))
	r.reported("the fault", func(p *rollout.Report) bool { return p.Enact["file_only"].Status == rollout.Retrying })
	release := r.hold("wait")
	r.reported("held", func(p *rollout.Report) bool { return p.Held == "wait" })
	clear()
	time.Sleep(1500 * time.Millisecond) // longer than a full disk's first retry
	if _, err := os.Stat(r.o.Config.Facts); !os.IsNotExist(err) {
		t.Errorf("it was written while the host was held: %v", err)
	}
	release()
	r.reported("settled", func(p *rollout.Report) bool {
		return p.Held == "" && p.Enact["file_only"].Status == rollout.Unenacted && p.Checks["docker"].Generation == 1 && p.Checks["docker"].Status == rollout.Passing
	})
}
