package evidence

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// mutation is a fault put into the source, and a test that must see it.
type mutation struct {
	name string
	file string // from the module's root
	old  string // is there exactly once
	new  string
	test string // of the same package
}

var mutations = []mutation{
	{"δ the wrong way round", "slo/contrast.go", "if treated {\n\t\t\t\tstep", "if !treated {\n\t\t\t\tstep", "TestEvidenceIsTheFormula"},
	{"ρ forgotten", "slo/contrast.go", "rho*float64(g.atRisk[k])", "float64(g.atRisk[k])", "TestEvidenceIsTheFormula"},
	{"long treated hosts as control", "slo/contrast.go", "if treated && !in[k] || n == 0 {", "if n == 0 {", "TestExpectationUnderTheNull"},
	{"a restart lost", "slo/evidence.go", "e.contrast.restart(e.strata, e.restarts.weight())", "", "TestEvidenceIsTheFormula"},
	{"control that counts on after it was treated", "slo/evidence.go", "\tg.control--\n\te.control--\n\te.treated++", "\te.control--\n\te.treated++", "TestExpectationUnderTheNull"},
	{"charged twice", "slo/budget.go", "b.charged++", "b.charged += 2", "TestEvidenceIsTheFormula"},
	{"exposure without those that have left", "slo/evidence.go", "\tif s.mature {\n\t\te.budget.old--\n\t}", "", "TestEvidenceIsTheFormula"},
	{"the wrong bar", "slo/watch.go", "j.share = o.alpha() / float64(weighed)", "j.share = o.alpha()", "TestObjectivesShareTheBar"},
	{"no bar", "slo/verdict.go", "w.weight() < 1", "w.weight() < 1e6", "TestVerdict"},
	{"grace ignored", "slo/watch.go", "w.now.Sub(m.since) >= j.silence()", "w.now.Sub(m.since) >= 0*j.silence()", "TestSilenceCountsAfterItsGrace"},
	{"session ignored", "slo/watch.go", "m.session == session && m.atRisk()", "m.atRisk()", "TestSilenceBeginsAnewWithTheGuard"},
	{"a blind role scored", "slo/watch.go", "if w.groups[m.stratum].blind() {", "if false {", "TestMassSilence"},
	{"the check's for ignored", "slo/objective.go", "time.Duration(or(o.For, DefaultFor))", "0", "TestACheckFailsForItsFor"},
	{"a failure before the change as one after", "slo/watch.go", "if s := &m.slots[i]; !s.failing {", "if s := &m.slots[i]; true {", "TestToldWhileFailingIsNotTheChange"},
	{"a host that fails time and again", "slo/watch.go", "s.done = true", "", "TestAHostFailsOnce"},
	{"one look for two", "slo/look.go", "w.now.Sub(s.since) >= j.failing()", "true", "TestLooksCount"},
	{"a gap between looks", "slo/look.go", "case gap:", "case gap && false:", "TestLooksForget"},
	{"a gate that fails before the change", "slo/look.go", "outcome != Failing || !changed || !news ||", "outcome != Failing || !changed && !news ||", "TestGate"},
	{"silence dropped", "evidence/host.go", "t.watch.Silent(name, s.Session, f.now)", "_ = t", "TestSilence"},
	{"a duplicate taken twice", "evidence/host.go", "sequence <= h.sequence", "false", "TestWhatIsTakenOfEvents"},
	{"an older boot's event taken", "evidence/host.go", ", slices.Contains(h.boots, boot):", ":", "TestWhatIsTakenOfEvents"},
	{"a session ended by nothing", "evidence/host.go", "t.watch.Tick(s.Session, f.now)", "t.watch.Tick(\"s1\", f.now)", "TestSilence"},
	{"a resume that goes on", "evidence/trial.go", "t.acknowledged = r.Acknowledged\n\t\tf.begin(t)", "t.acknowledged = r.Acknowledged", "TestAResumeBeginsAnew"},
	{"the desired state ignored", "evidence/host.go", "\t\t\tif h != nil {\n\t\t\t\tf.told(t, h)\n\t\t\t}\n", "", "TestWhatIsTakenOfEvents"},
	{"the host's word ignored", "evidence/host.go", "t.believes(name) {", "false {", "TestTheHostsWordMayComeFirst"},
	{"everyone's word believed", "evidence/trial.go", "return joined || t.spec.Rollback != \"\"", "return joined || true", "TestWhoIsNotWatched"},
}

// TestFaultsAreSeen builds the tests with one fault after the other in the source
// and wants them to fail: a test that can't fail proves nothing.
func TestFaultsAreSeen(t *testing.T) {
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	turns := make(chan struct{}, runtime.GOMAXPROCS(0))
	for i := range mutations {
		wait.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			if problem := mutations[i].unseen(t.Context(), t.TempDir(), root); problem != "" {
				t.Errorf("%s: %s", mutations[i].name, problem)
			}
		})
	}
	wait.Wait()
}

// unseen returns what is wrong if the fault isn't found: in words, and with what
// the tests said.
func (m *mutation) unseen(ctx context.Context, dir, root string) string {
	source := filepath.Join(root, filepath.FromSlash(m.file))
	b, err := os.ReadFile(source)
	if err != nil {
		return err.Error()
	}
	if n := bytes.Count(b, []byte(m.old)); n != 1 {
		return fmt.Sprintf("%q is %d times in %s", m.old, n, m.file)
	}
	mutant, overlay := filepath.Join(dir, "mutant.go"), filepath.Join(dir, "overlay.json")
	list, err := json.Marshal(map[string]map[string]string{"Replace": {source: mutant}})
	if err != nil {
		return err.Error()
	}
	if err := os.WriteFile(mutant, bytes.Replace(b, []byte(m.old), []byte(m.new), 1), 0o600); err != nil {
		return err.Error()
	}
	if err := os.WriteFile(overlay, list, 0o600); err != nil {
		return err.Error()
	}
	// The overlay puts the mutant in the source's place, for this build alone.
	args := []string{"test", "-vet=off", "-ldflags=-s -w", "-count=1", "-overlay", overlay, "-run", "^" + m.test + "$"}
	if path.Dir(m.file) == "slo" {
		args = append(args, "-args", "-rapid.nofailfile", "-rapid.shrinktime=1ms")
	}
	// Compiling may wait: tests of other packages that go on meanwhile are about time.
	cmd := exec.CommandContext(ctx, "nice", append([]string{"-n", "19", "go"}, args...)...)
	cmd.Dir = filepath.Dir(source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil:
		return m.test + " doesn't see it"
	case !strings.Contains(string(out), "--- FAIL: "+m.test):
		return fmt.Sprintf("%s doesn't see it: %v\n%s", m.test, err, out)
	}
	return ""
}
