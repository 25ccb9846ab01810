package control_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
)

const whole = `# The example of the design.
kind: Variable
name: docker_version
type: string                 # string | integer | number | boolean
allowed: ["1.10.3", "1.12.1", "1.12.3"]   # or pattern:, or min:/max:
initial: "1.10.3"
---
kind: Rollout
name: docker-1-12-3
variable: docker_version
to: "1.12.3"
where: role != "database"    # an expression
ramp: {shape: linear, over: 2w, percent: 100}
limits:
  - {where: role == "accesspoint", percent: 30, atLeast: 1, atMost: 50}
inFlight: {max: 5%, perRole: 20%}
start: 2026-12-01T09:00:00+01:00   # default: at once
after: helios-0-9-1
settle: 1h
spread: [zone, rack]
canary: {perRole: 1, where: labels.zone == "lab", bake: 24h}
approvals: 2
exclude: [web1.example.net]
windows: [{days: [mon, Tuesday], from: "09:00", to: 16:00, zone: Europe/Stockholm, months: [1, feb], monthDays: [1, "-5:-1"]}]
---
# nothing here
---
kind: Variable
name: workers
type: integer
min: 1
max: 64
---
kind: Rollout
name: workers-32
variable: workers
to: 32
ramp:
  shape: waves
  waves: [{percent: 1%, hold: 1d}, {percent: 10, hold: 2d, approval: true}, {percent: 100}]
---
kind: Rollout
name: workers-remove
variable: workers
remove: true
ramp: {shape: points, points: [{at: 1d, percent: 5}, {at: 1w, percent: 100}]}
---
kind: Rollout
name: workers-16
variable: workers
to: 16
ramp: {shape: exponential, over: 1w, growth: 20.5}
---
kind: Blackout
name: quarter-end
every: [{months: [mar, jun, sep, dec], monthDays: ["-3:-1"]}]
where: role != "lab"
why: the books are closed
---
kind: Pin
host: web1.lon2.example.net
values: {docker_version: "1.10.3", workers: 4}
until: 2026-12-24T00:00:00Z
why: under repair, ticket 812
`

func TestParseDocuments(t *testing.T) {
	docs, err := control.ParseDocuments("a.yaml", []byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	if len(docs) != 8 {
		t.Fatalf("%d documents", len(docs))
	}
	r := docs[1].Rollout
	if r == nil || docs[1].Kind() != control.KindRollout || docs[1].Name() != "docker-1-12-3" {
		t.Fatalf("the second is %+v", docs[1].Document)
	}
	if r.Where != `role != "database"` || r.Ramp.Over != rollout.Duration(14*24*time.Hour) || r.To.Text() != "1.12.3" ||
		len(r.Limits) != 1 || *r.Limits[0].AtMost != 50 || r.Limits[0].Percent != 30 || r.InFlight.PerRole != 20 ||
		!reflect.DeepEqual(r.Spread, []rollout.Word{"zone", "rack"}) || r.Start.UTC().Hour() != 8 || r.Settle != rollout.Duration(time.Hour) {
		t.Errorf("the rollout is %+v", r)
	}
	if v := docs[0].Variable; v.Initial.Text() != "1.10.3" || len(v.Allowed) != 3 || v.Type != rollout.String {
		t.Errorf("the variable is %+v", v)
	}
	if v := docs[2].Variable; *v.Min != 1 || *v.Max != 64 {
		t.Errorf("the last variable is %+v", v)
	}
	nine := rollout.TimeOfDay(9 * time.Hour)
	if !reflect.DeepEqual(r.Canary, &rollout.Canary{PerRole: 1, Where: `labels.zone == "lab"`, Bake: rollout.Duration(24 * time.Hour)}) || r.Approvals != 2 || len(r.Exclude) != 1 ||
		!reflect.DeepEqual(r.Windows, []rollout.Rule{{
			Days: []rollout.Weekday{"mon", "tue"}, Months: []rollout.Month{"jan", "feb"}, MonthDays: []rollout.MonthDays{{First: 1, Last: 1}, {First: -5, Last: -1}},
			From: nine, To: rollout.TimeOfDay(16 * time.Hour), Zone: "Europe/Stockholm",
		}}) {
		t.Errorf("the rollout is %+v", r)
	}
	if w := docs[3].Rollout.Ramp; w.Shape != rollout.Waves || len(w.Waves) != 3 || !w.Waves[1].Approval || w.Waves[0].Percent != 1 {
		t.Errorf("the waves are %+v", w)
	}
	if w := docs[4].Rollout; !w.Remove || len(w.Ramp.Points) != 2 || docs[5].Rollout.Ramp.Growth != 20.5 {
		t.Errorf("the points are %+v", w)
	}
	if b := docs[6].Blackout; docs[6].Kind() != control.KindBlackout || docs[6].Name() != "quarter-end" || len(b.Every) != 1 || b.Where == "" || b.Why == "" {
		t.Errorf("the blackout is %+v", b)
	}
	if p := docs[7].Pin; docs[7].Kind() != control.KindPin || docs[7].Name() != "web1.lon2.example.net" || p.Values["workers"].Text() != "4" || p.Until.IsZero() {
		t.Errorf("the pin is %+v", p)
	}
	for field, line := range map[string]int{
		"": 8, "name": 9, "to": 11, "ramp.over": 13, "limits": 15, "limits[0].atMost": 15, "limits[0].nothing": 15, "limits[7]": 15, "supersedes": 8,
	} {
		if got := docs[1].Line(field); got != line {
			t.Errorf("%q is in line %d, want %d", field, got, line)
		}
	}
}

// What is read, is written as JSON so that it reads the same: one by one, and
// as the list that get prints.
func TestDocumentsRoundTrip(t *testing.T) {
	docs, err := control.ParseDocuments("a.yaml", []byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	var all []control.Document
	for _, d := range docs {
		all = append(all, d.Document)
	}
	list, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	again, err := control.ParseDocuments("a.json", list)
	if err != nil {
		t.Fatal(err)
	}
	for i := range all {
		if !reflect.DeepEqual(again[i].Document, all[i]) {
			t.Errorf("document %d came back as %+v", i, again[i].Document)
		}
		b, err := json.Marshal(all[i])
		if err != nil {
			t.Fatal(err)
		}
		var wire control.Document
		if err := json.Unmarshal(b, &wire); err != nil {
			t.Fatal(err)
		}
		if w, _ := json.Marshal(wire); string(w) != string(b) {
			t.Errorf("on the wire it became %s", w)
		}
	}
}

func TestFaultsOfDocuments(t *testing.T) {
	const head = "kind: Rollout\nname: r\nvariable: v\nto: x\n"
	for _, c := range []struct {
		name, in string
		want     []string // whole lines
	}{
		{"unknown field", head + "ramp: {over: 1h, percnt: 3}\n", []string{"f:5:18: ramp.percnt: there is no such field: did you mean percent?"}},
		{"far from all", "kind: Variable\nname: a\ntype: string\nowner: me\n", []string{"f:4:1: owner: there is no such field: the fields here are kind, name, type, allowed, pattern, min, max, initial, enact"}},
		{"case", head + "ramp: {over: 1h}\ninflight: {max: 5}\n", []string{"f:6:1: inflight: there is no such field: did you mean inFlight?"}},
		{"the value", "kind: Variable\nname: a\ntype: integer\nvalue: 3\n", []string{"f:4:1: value: the value that the fleet is on isn't written by hand: leave it out, a rollout moves it"}},
		{"unquoted", "kind: Variable\nname: a\ntype: string\nallowed: [1.10, \"1.12\", 0x10, yes, true]\ninitial: 1.10\n", []string{
			`f:4:11: allowed[0]: 1.10 is read as a number, and the variable is a string: put it in quotes: "1.10"`,
			`f:4:25: allowed[2]: 0x10 is read as an integer, and the variable is a string: put it in quotes: "0x10"`,
			`f:4:36: allowed[4]: true is read as true or false, and the variable is a string: put it in quotes: "true"`,
			`f:5:10: initial: 1.10 is read as a number, and the variable is a string: put it in quotes: "1.10"`,
		}},
		{"unquoted, variable beside it", "kind: Variable\nname: v\ntype: string\n---\nkind: Rollout\nname: r\nvariable: v\nto: 1.10\nramp: {over: 1h}\n", []string{
			`f:8:5: to: 1.10 is read as a number, and the variable is a string: put it in quotes: "1.10"`,
		}},
		{"not plain numbers", "kind: Variable\nname: a\ntype: number\ninitial: .inf\n", []string{"f:4:10: initial: .inf isn't a plain number, true or false: write it so, or in quotes if it is text"}},
		{"wrong types", "kind: Rollout\nname: 5\nvariable: {a: b}\nto: [x]\nwhere: 3\nramp: 2w\nlimits: {}\nspread: zone\nsettle: 3600\nstart: tomorrow\n", []string{
			"f:2:7: name: 5 is an integer: want text: put it in quotes",
			"f:3:11: variable: is a mapping: want text: put it in quotes",
			"f:4:5: to: is a list: want one value: text in quotes, a number, true or false",
			"f:5:8: where: 3 is an integer: want text: put it in quotes",
			"f:6:7: ramp: is text (2w): want a mapping with the fields shape, preset, over, percent, growth, waves, points",
			`f:7:9: limits: is a mapping: want a list, such as [{where: role == "web", percent: 30}]`,
			"f:8:9: spread: is text (zone): want a list, such as [zone, rack]",
			"f:9:9: settle: 3600 is an integer: want a duration such as 2w, 36h or 90s",
			`f:10:8: start: "tomorrow" isn't a time: want one such as 2026-12-01T09:00:00+01:00`,
		}},
		{"windows", head + "ramp: {over: 1h}\nwindows:\n  - {days: [mo], from: 9}\n  - {zone: Mars, monthDays: [0], to: \"25:00\"}\n  - daily\n", []string{
			`f:7:13: windows[0].days[0]: "mo" isn't a day of the week: want mon, tue, wed, thu, fri, sat or sun`,
			`f:7:24: windows[0].from: 9 is an integer: want a time of day in quotes, such as "09:00"`,
			`f:8:12: windows[1].zone: "Mars" isn't a known time zone: want an IANA name, such as Europe/Stockholm or UTC`,
			"f:8:30: windows[1].monthDays[0]: 0 isn't a day of a month: want 1 to 31, or -1 (the last) to -31",
			`f:8:38: windows[1].to: "25:00" isn't a time of day: want hours and minutes`,
			"f:9:5: windows[2]: is text (daily): want a mapping with the fields days, months, monthDays, from, to, zone",
		}},
		{"one window", head + "ramp: {over: 1h}\nwindows: {days: [mon]}\n", []string{
			`f:6:10: windows: is a mapping: want a list, such as [{days: [mon, tue, wed, thu], from: "09:00", to: "16:00", zone: Europe/Stockholm}]`,
		}},
		{"waves", head + "ramp:\n  shape: waves\n  waves: [1, {percent: 20, approval: yes}, {percent: 10, hold: 1d}]\n", []string{
			"f:7:11: ramp.waves[0]: is an integer (1): want a mapping with the fields percent, hold, approval",
			"f:7:38: ramp.waves[1].approval: yes is text: want true or false",
			"f:7:54: ramp.waves[2].percent: 10% isn't more than the 20% of the wave before",
		}},
		{"shape and over", head + "ramp: {preset: risky, over: 1h}\n", []string{"f:5:16: ramp.preset: is a linear ramp over 3d: leave shape and over out"}},
		{"remove and to", head + "remove: true\nramp: {over: 1h}\ncanary: {host: 1}\n", []string{
			"f:5:9: remove: takes the variable out of the documents: leave to out",
			"f:7:10: canary.host: there is no such field: did you mean hosts?",
		}},
		{"what the service writes", head + "ramp: {over: 1h}\nrollback: up\n---\nkind: Pin\nhost: h1\nby: alice\nvalues: {v: 1}\n", []string{
			"f:6:1: rollback: a rollback isn't written by hand: leave it out, `tsunamictl rollout rollback` makes one",
			"f:10:1: by: who pins isn't written by hand: leave it out, it is who applies the document",
		}},
		{"blackout", "kind: Blackout\nname: b\nfrom: 2026-12-20\nuntil: 2026-12-19T00:00:00Z\nevery: []\nwhere: role >\n", []string{
			`f:3:7: from: "2026-12-20" isn't a time: want one such as 2026-12-01T09:00:00+01:00`,
			"f:6:8: where: ",
		}},
		{"pin", "kind: Variable\nname: v\ntype: string\n---\nkind: Pin\nhost: Web1\nvalues: {v: 1.10, Bad: x, w: [1]}\n---\nkind: Pin\nhost: h1\nvalues: [v]\n", []string{
			`f:6:7: host: host name "Web1" isn't allowed: want a lower-case DNS name`,
			`f:7:13: values.v: 1.10 is read as a number, and the variable is a string: put it in quotes: "1.10"`,
			`f:7:19: values.Bad: variable name "Bad" isn't allowed`,
			"f:7:30: values.w: is a list: want one value",
			`f:11:9: values: is a list: want a mapping, such as {docker_version: "1.10.3"}`,
		}},
		{"twice a pin", "kind: Pin\nhost: h\nvalues: {v: 1}\n---\nkind: Pin\nhost: h\nvalues: {w: 1}\n", []string{"f:5:1: host: Pin h stands in line 1 already"}},
		{"limits", head + "ramp: {over: 1h}\nlimits:\n  - percent: 130\n  - atLeast: 5\n    atMost: 2\n  - where: role ==\n  - atMost: 1.5\n", []string{
			"f:7:14: limits[0].percent: 130 isn't a percentage above 0 and at most 100",
			"f:8:14: limits[1].atLeast: 5 is over atMost 2",
			"f:11:13: limits[3].atMost: 1.5 is a number: want a whole number",
		}},
		{"nothing", head + "ramp: {over: 1h}\nwhere:\n", []string{"f:6:1: where: has no value: give it one, or leave the field out"}},
		{"missing", "kind: Rollout\n", []string{
			"f:1:1: name: is missing: want 1 to 63 of a-z, 0-9 and inner hyphens",
			"f:1:1: to: is missing: the value to move to",
			"f:1:1: ramp.over: is missing or 0: how long the change takes, such as 2w",
		}},
		{"names", "kind: Variable\nname: Docker-Version\ntype: string\n", []string{`f:2:7: name: variable name "Docker-Version" isn't allowed: want a lower-case letter, then at most 62 of a-z, 0-9 and _`}},
		{"no kind", "name: x\n", []string{"f:1:1: kind: is missing: want Variable, Rollout, Objective, Blackout or Pin"}},
		{"near kind", "kind: rollout\n", []string{`f:1:7: kind: "rollout" isn't a kind: did you mean Rollout?`}},
		{"unknown kind", "kind: Deployment\n", []string{`f:1:7: kind: "Deployment" isn't a kind: want Variable, Rollout, Objective, Blackout or Pin`}},
		{"all documents", "kind: Nope\n---\nname: x\n---\n- 1\n", []string{"f:1:7: kind:", "f:3:1: kind: is missing", "f:5:3: a document is a mapping"}},
		{"twice a field", "kind: Variable\nname: a\nname: b\n", []string{`f:3:1: "name" stands here twice`}},
		{"twice a document", "kind: Variable\nname: a\ntype: string\n---\nkind: Variable\nname: a\ntype: string\n", []string{"f:5:1: name: Variable a stands in line 1 already"}},
		{"alias", "kind: &k Variable\nname: *k\n", []string{"f:1:7: anchors, aliases and merge keys aren't taken"}},
		{"tag", "kind: !!str Variable\n", []string{"f:1:7: tags aren't taken"}},
		{"syntax", "kind: [Variable\n", []string{"f:1:7: isn't YAML: "}},
		{"tab", "kind: Variable\n\tname: a\n", []string{"f:2:"}},
		{"deep", "kind: " + strings.Repeat("[", 5000), []string{"f:1:", "nested deeper than"}},
		{"deep by columns", strings.Repeat("- ", 5000) + "x", []string{"too deep"}},
		{"json", "{\"kind\":\"Variable\",\n \"name\":\"a\", \"type\": \"strng\", \"initial\": 1.10}", []string{`f:2:22: type: "strng" isn't a type: want string, integer, number or boolean`}},
		{"json unquoted", "{\"kind\":\"Variable\", \"name\":\"a\",\n\t\"type\": \"string\", \"initial\": 1.10}", []string{`f:2:31: initial: 1.10 is read as a number`, `"1.10"`}},
		{"too many values", "kind: [" + strings.Repeat("a, ", 10_000) + "a]\n", []string{"f:1:", "the document has too many values: split it"}},
		{"text", "hello", []string{"f:1:1: a document is a mapping that starts with kind: Variable, Rollout, Objective, Blackout or Pin, and this is text (hello)"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			docs, err := control.ParseDocuments("f", []byte(c.in))
			if docs != nil {
				t.Errorf("documents came beside the error: %v", docs)
			}
			wantError(t, err, c.want...)
		})
	}
}

func TestAFileIsBounded(t *testing.T) {
	_, err := control.ParseDocuments("big", make([]byte, control.MaxFile+1))
	wantError(t, err, "big: ", "at most")
	began := time.Now()
	const size = control.MaxFile / 8 // the rest of the way is as long, and the tests are many
	for _, in := range []string{
		strings.Repeat("a: b\n", size/5),
		strings.Repeat("- a\n", size/4),
		strings.Repeat("---\nkind: Variable\n", size/19),
		"[" + strings.Repeat(`{"kind":"Variable"},`, size/20) + "{}]",
		"x: " + strings.Repeat("y", size),
		strings.Repeat("# c\n", size/4),
		strings.Repeat("[", size),
		strings.Repeat("\"\\u0041", size/7),
	} {
		_, err := control.ParseDocuments("f", []byte(in))
		if err != nil && len(err.Error()) > 100_000 {
			t.Errorf("%d bytes of error", len(err.Error()))
		}
	}
	if d := time.Since(began); d > 30*time.Second {
		t.Errorf("hostile files took %s", d)
	}
}

func TestFaultsOfTheServiceAreBroughtToTheirLine(t *testing.T) {
	docs, err := control.ParseDocuments("r.yaml", []byte("kind: Rollout\nname: r\nvariable: v\nto: 1.10\nramp: {over: 1h}\n"))
	if err != nil {
		t.Fatal(err)
	}
	v := rollout.Variable{Name: "v", Type: rollout.String}
	e := control.AsError(docs[0].Rollout.Fits(&v))
	if len(e.Faults) != 1 {
		t.Fatalf("faults: %v", e.Faults)
	}
	wantError(t, docs[0].Locate(e.Faults[0]), "r.yaml:4:5: to: ", "put it in quotes", `it is written 1.10: write "1.10"`)
	wantError(t, docs[0].Locate(control.Fault{Field: "variable", Problem: "there is none"}), "r.yaml:3:11: variable: there is none")
	wantError(t, docs[0].Locate(control.Fault{Problem: "not now"}), "r.yaml:1:1: not now")
}

func FuzzParseDocuments(f *testing.F) {
	f.Add([]byte(whole))
	f.Add([]byte(`[{"kind":"Variable","name":"a","type":"string"}, {}]`))
	f.Add([]byte("kind: Rollout\nto: 1.10\nlimits: [{atMost: 1}]\n? x\n: y\n"))
	f.Add([]byte("kind: Pin\nhost: h\nvalues: {v: 1.5, w: x}\n"))
	f.Add([]byte("kind: Blackout\nname: b\nevery: [{months: [1], monthDays: [1:3], from: 09:00}]\n"))
	f.Add([]byte("a: |\n  b\n...\n--- >\n c\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		docs, err := control.ParseDocuments("f", in)
		if err != nil {
			if docs != nil || !strings.HasPrefix(err.Error(), "f:") {
				t.Fatalf("%d documents, %v", len(docs), err)
			}
			return
		}
		for _, d := range docs {
			b, err := json.Marshal(d.Document)
			if err != nil {
				t.Fatalf("what was read can't be written: %v", err)
			}
			again, err := control.ParseDocuments("f", b)
			if err != nil || len(again) != 1 {
				t.Fatalf("what was written can't be read: %v\n%s", err, b)
			}
			if c, _ := json.Marshal(again[0].Document); string(c) != string(b) {
				t.Fatalf("%s became %s", b, c)
			}
			if d.Line("limits[0].percent") < 1 {
				t.Fatal("a line below 1")
			}
		}
	})
}
