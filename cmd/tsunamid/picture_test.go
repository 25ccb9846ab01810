package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
)

// frozenBad is a bad rollout that the guard has frozen.
func frozenBad() bad {
	v := &slo.Verdict{Of: 2, Standings: []slo.Standing{{E: 255.9, Bar: 100, Treated: 3, TreatedFailed: 2, Control: 37}}}
	return bad{id: "helios-0-9-1", hosts: 40, view: control.RolloutView{
		State: rollout.StateFrozen, Told: 3, Target: 40, Reason: "frozen by abort 9: the change does harm",
		Abort: &control.AbortView{Sequence: 9, Actor: "sloguard", Evidence: v},
	}}
}

// halfway is a rollout of 40 hosts that is half told, a quarter confirmed.
func halfway() *scene {
	s := &scene{
		title: "Tsunami", variable: "docker_version", began: time.Unix(1, 0), from: "1.10.3", to: "1.12.3", hosts: 40, over: 40 * time.Second,
		view: control.RolloutView{
			State: rollout.StateRunning, Target: 40, Told: 20, Confirmed: 10, InFlight: 10, Limit: 12, Planned: 20,
			Over: rollout.Duration(40 * time.Second), Elapsed: rollout.Duration(20 * time.Second), Ends: time.Unix(1, 0),
		},
		roles:   []control.RoleView{{Role: "accesspoint", Hosts: 30, Target: 30, Told: 15, Confirmed: 8, InFlight: 7}, {Role: "ads", Hosts: 10, Target: 10, Told: 5, Confirmed: 2, InFlight: 3, Failed: 1}},
		bad:     frozenBad(),
		footers: []string{"the long footer, which fits into a wide terminal", "short"},
	}
	for i := range 21 {
		s.samples = append(s.samples, sample{at: time.Duration(i) * time.Second, planned: i, told: i, confirmed: i / 2, changed: i / 2})
	}
	return s
}

var codes = regexp.MustCompile(`\x1b\[[0-9;?]*[A-Za-z]`)

func plainText(c *canvas) string {
	return codes.ReplaceAllString(strings.Join(c.lines(), "\n"), "")
}

func TestPicture(t *testing.T) {
	c := halfway().picture(120, 40)
	got := plainText(c)
	for _, want := range []string{
		"Tsunami  docker_version 1.10.3 → 1.12.3, 40 hosts in 2 roles, over 40 s",
		"┄┄ planned  ── told  ── confirmed", "█ 1.10.3 on 30 hosts   █ 1.12.3 on 10",
		"accesspoint ■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■ 8 of 30, 7 in flight", "ads ■■■■■■■■■■ 2 of 10, 3 in flight, 1 failed",
		"▶ moving, 20 s to go", "planned 20    told 20    confirmed 10    failed 0     in flight 10 of at most 12",
		"■ helios-0-9-1 frozen by the guard after 3 of 40 hosts\n   2 of 3 changed failed, 0 of 37 not yet changed; evidence 255.9, bar 100\n",
		"the long footer", "   40 ┤", "   20 ┤", "    0 ┤", "0 s", "40 s",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the picture lacks %q:\n%s", want, got)
		}
	}
	if c.height > 40 {
		t.Errorf("%d rows", c.height)
	}
	// The bar of a role: confirmed, told, and those still on the old value.
	styles := map[style]int{}
	for _, cell := range c.cells {
		if cell.r == '■' {
			styles[cell.s]++
		}
	}
	if styles[newStyle] != 10 || styles[toldStyle] != 10 || styles[oldStyle] != 20 {
		t.Errorf("the roles' cells: %d blue, %d light, %d yellow", styles[newStyle], styles[toldStyle], styles[oldStyle])
	}
	// Yellow gives way to blue: until now, and in proportion.
	blue, yellow := 0, 0
	for y := headRows + 1; y < headRows+mostChart-2; y++ {
		for x := 67; x < 119; x++ {
			switch cell := c.cells[y*c.width+x]; {
			case cell.s == newStyle && cell.r == '█':
				blue++
			case cell.s == oldStyle && cell.r == '█':
				yellow++
			}
		}
	}
	if share := float64(blue) / float64(blue+yellow); share < 0.08 || share > 0.15 { // the mean of 0 to 10 of 40
		t.Errorf("%d blue and %d yellow cells", blue, yellow)
	}
}

func TestPictureLines(t *testing.T) {
	s := halfway()
	b := newBraille(area{newCanvas(40, 10), 0, 0, 40, 10})
	s.plot(b, s.now(), toldLine, 1, func(at time.Duration) float64 { return s.at(at, func(p sample) int { return p.told }) })
	b.flush()
	got := plainText(b.c)
	// From the lower left corner to the middle.
	rows := strings.Split(got, "\n")
	if !strings.HasPrefix(rows[9], "⡠") || strings.TrimSpace(rows[3]) != "" || strings.TrimSpace(rows[5]) == "" {
		t.Errorf("the line:\n%s", got)
	}
	if at := s.plan(30 * time.Second); at != 30 {
		t.Errorf("the plan at 30 s is %v", at)
	}
	if at := s.plan(time.Minute); at != 40 {
		t.Errorf("the plan's end is %v", at)
	}
}

func TestPictureSmall(t *testing.T) {
	s := halfway()
	if got := plainText(s.picture(60, 20)); !strings.Contains(got, "┄┄ planned") || strings.Contains(got, "1.10.3 on") || !strings.Contains(got, "the long footer") {
		t.Errorf("60 columns:\n%s", got)
	}
	if got := plainText(s.picture(30, 10)); !strings.Contains(got, "▶ moving") || !strings.Contains(got, "short") {
		t.Errorf("30 columns:\n%s", got)
	}
}

func TestStatus(t *testing.T) {
	for _, c := range []struct {
		view control.RolloutView
		want string
	}{
		{control.RolloutView{State: rollout.StatePending}, "‖ pending"},
		{control.RolloutView{State: rollout.StateRunning}, "▶ moving"},
		{control.RolloutView{State: rollout.StateRunning, Reason: "told and not confirmed yet: 5 of 9 hosts", ReasonCode: rollout.Unconfirmed, InFlight: 2}, "▶ all are told, 2 still to confirm"},
		{control.RolloutView{State: rollout.StateRunning, Reason: "everything is stopped by stop 7: x", ReasonCode: rollout.Stopped}, "‖ not moving: everything is stopped by stop 7: x"},
		{control.RolloutView{State: rollout.StatePaused, Reason: "paused: lunch", ReasonCode: rollout.Paused}, "‖ paused: lunch"},
		{control.RolloutView{State: rollout.StateFrozen, Reason: "frozen by abort 9: users see errors", ReasonCode: rollout.Frozen}, "■ frozen by abort 9: users see errors"},
		{control.RolloutView{State: rollout.StateCompleted}, "✔ completed"},
	} {
		mark, _, words := status(&c.view)
		if got := mark + " " + words; got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

// Whatever the terminal's size and the rollout's state, the picture fits.
func TestPictureFits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		count := rapid.IntRange(0, 3000)
		s := &scene{title: "Tsunami", began: time.Unix(1, 0), bad: frozenBad(), from: "a", to: rapid.StringN(0, 50, 200).Draw(t, "to"), hosts: count.Draw(t, "hosts"), over: time.Duration(rapid.Int64Range(int64(leastOver), int64(mostOver)).Draw(t, "over"))}
		at := time.Duration(0)
		for range rapid.IntRange(0, 30).Draw(t, "samples") {
			at += time.Duration(rapid.Int64Range(0, int64(5*time.Minute)).Draw(t, "at"))
			s.samples = append(s.samples, sample{at, count.Draw(t, "planned"), count.Draw(t, "told"), count.Draw(t, "confirmed"), count.Draw(t, "changed")})
		}
		for range rapid.IntRange(0, 15).Draw(t, "roles") {
			s.roles = append(s.roles, control.RoleView{Role: "r", Hosts: count.Draw(t, "n"), Target: count.Draw(t, "target"), Told: count.Draw(t, "told"), Confirmed: count.Draw(t, "confirmed"), InFlight: count.Draw(t, "in flight")})
		}
		s.view = control.RolloutView{
			State: rollout.StateRunning, Target: count.Draw(t, "target"), Over: rollout.Duration(s.over),
			Elapsed: rollout.Duration(rapid.Int64Range(0, int64(2*mostOver)).Draw(t, "elapsed")), Reason: rapid.StringN(0, 30, 300).Draw(t, "reason"),
		}
		width, height := rapid.IntRange(0, 250).Draw(t, "width"), rapid.IntRange(0, 80).Draw(t, "height")
		lines := s.picture(width, height).lines()
		if len(lines) > height {
			t.Fatalf("%d rows in a terminal of %d", len(lines), height)
		}
		for _, line := range lines {
			if n := len([]rune(codes.ReplaceAllString(line, ""))); n > width {
				t.Fatalf("%d columns in a terminal of %d", n, width)
			}
		}
	})
}

// A frame is one write, and the terminal gets its cursor and screen back.
func TestScreen(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "terminal"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	s := &screen{file: f}
	sc := halfway()
	s.milestone("starting")
	s.update(sc)
	s.finish(sc)
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	out := string(b)
	for _, code := range []string{enterScreen, leaveScreen} {
		if strings.Count(out, code) != 1 {
			t.Errorf("%q is there %d times", code, strings.Count(out, code))
		}
	}
	if strings.Count(out, beginFrame) != 2 || strings.Count(out, endFrame) != 2 {
		t.Errorf("frames: %q", out)
	}
	if after := out[strings.Index(out, leaveScreen)+len(leaveScreen):]; !strings.Contains(after, "moving") || strings.Contains(after, "\x1b[?") {
		t.Errorf("left behind: %q", after)
	}
}

// The printer prints a line a second at the most, and never the same twice.
func TestPrinter(t *testing.T) {
	var out buffer
	p := newShow(&out, &out)
	s := halfway()
	p.milestone("starting")
	p.milestone("starting")
	p.milestone("started")
	for range 10 {
		p.update(s)
	}
	p.finish(s)
	want := "starting\nstarted\n  20.0s  planned 20  told 20  confirmed 10  in flight 10  1.10.3: 30  1.12.3: 10  moving\n"
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

// Lines come where there is no terminal, or where no colours are wanted.
func TestNewShow(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = null.Close() }()
	if _, ok := newShow(null, null).(*printer); !ok {
		t.Error("it draws on what isn't a terminal")
	}
}
