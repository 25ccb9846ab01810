package main

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/tsunami-rollouts/tsunami/rollout"
)

func TestParseLimit(t *testing.T) {
	for in, want := range map[string]string{
		`role == "x": 30%, atLeast=1, atMost=50`: `role == "x" 30% 1 50`,
		`30`:                                     ` 30% 0 -1`,
		`atMost=0`:                               ` 0% 0 0`,
		`labels.zone == "a:b" : percent=2.5`:     `labels.zone == "a:b" 2.5% 0 -1`,
	} {
		l, err := parseLimit(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		most := -1
		if l.AtMost != nil {
			most = *l.AtMost
		}
		if got := fmt.Sprint(l.Where, " ", l.Percent, " ", l.AtLeast, " ", most); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	for _, in := range []string{"", "x:", "role == \"x\"", "atLeast=-1", "atMost=x", "most=3", "0%", "130", "30%%%: x"} {
		if l, err := parseLimit(in); err == nil {
			t.Errorf("%q gave %+v", in, l)
		}
	}
}

func TestShorthand(t *testing.T) {
	asJSON := func(v any, err error) (string, error) {
		if err != nil {
			return "", err
		}
		b, err := json.Marshal(v)
		return string(b), err
	}
	waves := func(s string) (string, error) { v, err := parseWaves(s); return asJSON(v, err) }
	points := func(s string) (string, error) { v, err := parsePoints(s); return asJSON(v, err) }
	canary := func(s string) (string, error) { v, err := parseCanary(s); return asJSON(v, err) }
	rule := func(s string) (string, error) { v, err := parseRule(s); return asJSON(v, err) }
	for _, c := range []struct {
		parse    func(string) (string, error)
		in, want string
	}{
		{waves, "1%:1d, 10%:2d:approval,100%", `[{"percent":1,"hold":"1d"},{"percent":10,"hold":"2d","approval":true},{"percent":100}]`},
		{waves, "0.5:approval:1h", `[{"percent":0.5,"hold":"1h","approval":true}]`},
		{points, "1d:5%, 3d:20%,1w:100", `[{"at":"1d","percent":5},{"at":"3d","percent":20},{"at":"1w","percent":100}]`},
		{canary, "perRole=1,bake=24h", `{"perRole":1,"bake":"1d"}`},
		{canary, " hosts = 3 ", `{"hosts":3}`},
		{canary, `where=role in ["a","b"] && host=="x",bake=1h`, `{"where":"role in [\"a\",\"b\"] \u0026\u0026 host==\"x\"","bake":"1h"}`},
		{rule, "mon-thu 09:00-16:00 Europe/Stockholm", `{"days":["mon","tue","wed","thu"],"from":"09:00","to":"16:00","zone":"Europe/Stockholm"}`},
		{rule, "UTC 22:00-06:00 Fri-Mon,wed", `{"days":["fri","sat","sun","mon","wed"],"from":"22:00","to":"06:00","zone":"UTC"}`},
		{rule, "dec 24-26", `{"months":["dec"],"monthDays":["24:26"]}`},
		{rule, "mar,jun,sep,december -5:-1", `{"months":["mar","jun","sep","dec"],"monthDays":["-5:-1"]}`},
		{rule, "1,15,-1 nov-jan", `{"months":["nov","dec","jan"],"monthDays":[1,15,-1]}`},
		{rule, "-1", `{"monthDays":[-1]}`},
		{rule, "25:-1", `{"monthDays":["25:-1"]}`},
		{rule, "18:00-24:00", `{"from":"18:00","to":"24:00"}`},
	} {
		if got, err := c.parse(c.in); err != nil || got != c.want {
			t.Errorf("%s: %s, %v; want %s", c.in, got, err, c.want)
		}
	}
	for _, c := range []struct {
		parse func(string) (string, error)
		in    string
	}{
		{waves, ""}, {waves, "1%:1d,"}, {waves, "1%:soon"}, {waves, "130%"}, {waves, "x:1d"},
		{points, ""}, {points, "1d"}, {points, "5%:1d"}, {points, "1d:0%"},
		{canary, ""}, {canary, "3"}, {canary, "hosts=x"}, {canary, "perRole=1,24h"}, {canary, "bake=soon"}, {canary, "host==x"},
		{rule, ""}, {rule, "mon tue"}, {rule, "09:00-25:00"}, {rule, "mon-foo"}, {rule, "Europe/Stockolm"}, {rule, "mon-thu 9-16"}, {rule, "25"}, {rule, "dec 32"}, {rule, "dec 0"}, {rule, "dec 26-24"}, {rule, "9:00-16:00"}, {rule, "16:00"}, {rule, "mon-dec"},
	} {
		if got, err := c.parse(c.in); err == nil {
			t.Errorf("%q gave %s", c.in, got)
		}
	}
}

// What is shown of a rule is what a flag takes.
func TestRuleText(t *testing.T) {
	for _, in := range []string{"mon-thu 09:00-16:00 Europe/Stockholm", "mon,wed", "fri-mon", "sat,sun", "dec 24:26", "mar,jun -5:-1", "jan-dec 15", "22:00-06:00", "18:00-24:00 UTC"} {
		r, err := parseRule(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if got := ruleText(r); got != in {
			t.Errorf("%s is shown as %s", in, got)
		}
	}
	if got := ruleText(rollout.Rule{From: rollout.TimeOfDay(1e9)}); got != "00:00:01-24:00" {
		t.Errorf("got %s", got)
	}
	if got := rulesText([]rollout.Rule{{}, {Zone: "UTC"}}); got != "always; always UTC" {
		t.Errorf("got %s", got)
	}
}

func TestRampText(t *testing.T) {
	day := rollout.Duration(24 * 3600e9)
	for want, r := range map[string]rollout.Ramp{
		"linear over 2d":                                           {Over: 2 * day},
		"common: linear over 2d":                                   {Preset: "common"},
		"points over 2d: 5% by 1d, 100% by 2d":                     {Shape: rollout.Points, Points: []rollout.Point{{At: day, Percent: 5}, {At: 2 * day, Percent: 100}}},
		"2 waves over 1d: 1%, 1d; 100% once approved":              {Shape: rollout.Waves, Waves: []rollout.Wave{{Percent: 1, Hold: day}, {Percent: 100, Approval: true}}},
		"exponential over 1d, ends 10 times as fast as it starts":  {Shape: rollout.Exponential, Over: day},
		"exponential over 1d, ends 2.5 times as fast as it starts": {Shape: rollout.Exponential, Over: day, Growth: 2.5},
	} {
		if got := rampText(r); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
