package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tsunami-rollouts/tsunami/rollout"
)

// The short forms in which flags say what a document says at length. They
// know no more than how a thing is written: what makes sense is for the
// document's own validation.

// parseTime reads a time, or a duration from now: forwards with sign 1,
// backwards with -1.
func parseTime(text string, now time.Time, sign int) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	if t, err := time.ParseInLocation("2006-01-02", text, time.Local); err == nil {
		return t, nil
	}
	d, err := rollout.ParseDuration(strings.TrimPrefix(text, "+"))
	if err != nil {
		return time.Time{}, fmt.Errorf("%q isn't a time or a duration: want one such as 2026-12-01T09:00:00+01:00, 2026-12-01 or 2h", text)
	}
	t := now.Add(time.Duration(sign) * time.Duration(d))
	if time.Duration(d) >= time.Minute {
		t = t.Truncate(time.Second) // it may end up in a document
	}
	return t, nil
}

func parsePercent(text string) (rollout.Percent, error) {
	var p percentFlag
	err := p.Set(text)
	return rollout.Percent(p), err
}

func parseCount(key, text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("%s: %q isn't a number of hosts", key, text)
	}
	return int(n), nil
}

const limitForm = "want 'WHERE: 30%, atLeast=1, atMost=50', any of the three"

// parseLimit reads WHERE: 30%, atLeast=1, atMost=50. Without WHERE and its
// colon it is for every host.
func parseLimit(text string) (l rollout.Limit, err error) {
	items := text
	if i := strings.LastIndexByte(text, ':'); i >= 0 {
		l.Where, items = strings.TrimSpace(text[:i]), text[i+1:]
	}
	given := false
	for item := range strings.SplitSeq(items, ",") {
		item = strings.TrimSpace(item)
		if item == "" {
			continue
		}
		given = true
		key, value, ok := strings.Cut(item, "=")
		if !ok {
			key, value = "percent", item
		}
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(key) {
		case "percent":
			l.Percent, err = parsePercent(value)
		case "atLeast":
			l.AtLeast, err = parseCount("atLeast", value)
		case "atMost":
			var n int
			n, err = parseCount("atMost", value)
			l.AtMost = &n
		default:
			err = fmt.Errorf("%q isn't known: %s", key, limitForm)
		}
		if err != nil {
			return l, err
		}
	}
	if !given {
		return l, errors.New("it limits nothing: " + limitForm)
	}
	return l, nil
}

const waveForm = "want PERCENT[:HOLD][:approval], such as 10%:2d:approval"

// parseWaves reads 1%:1d,10%:2d:approval,100%.
func parseWaves(text string) (waves []rollout.Wave, err error) {
	for item := range strings.SplitSeq(text, ",") {
		var w rollout.Wave
		parts := strings.Split(strings.TrimSpace(item), ":")
		if w.Percent, err = parsePercent(parts[0]); err != nil {
			return nil, fmt.Errorf("%w; %s", err, waveForm)
		}
		for _, part := range parts[1:] {
			if part == "approval" {
				w.Approval = true
			} else if w.Hold, err = rollout.ParseDuration(part); err != nil {
				return nil, fmt.Errorf("%q in %q is neither a duration nor the word approval: %s", part, item, waveForm)
			}
		}
		waves = append(waves, w)
	}
	return waves, nil
}

// parsePoints reads 1d:5%,3d:20%,1w:100%.
func parsePoints(text string) (points []rollout.Point, err error) {
	for item := range strings.SplitSeq(text, ",") {
		const form = "want TIME:PERCENT, such as 3d:20%"
		at, share, ok := strings.Cut(strings.TrimSpace(item), ":")
		if !ok {
			return nil, fmt.Errorf("%q: %s", item, form)
		}
		var p rollout.Point
		if p.At, err = rollout.ParseDuration(at); err != nil {
			return nil, fmt.Errorf("%w; %s", err, form)
		}
		if p.Percent, err = parsePercent(share); err != nil {
			return nil, fmt.Errorf("%w; %s", err, form)
		}
		points = append(points, p)
	}
	return points, nil
}

// parseCanary reads perRole=1,bake=24h. A comma belongs to the expression of
// where unless one of the keys follows it.
func parseCanary(text string) (*rollout.Canary, error) {
	keys := []string{"hosts", "perRole", "where", "bake"}
	var items [][2]string
	for part := range strings.SplitSeq(text, ",") {
		key, value, ok := strings.Cut(part, "=")
		key = strings.TrimSpace(key)
		switch {
		case ok && slices.Contains(keys, key) && !strings.HasPrefix(value, "="):
			items = append(items, [2]string{key, value})
		case len(items) > 0 && items[len(items)-1][0] == "where":
			items[len(items)-1][1] += "," + part
		default:
			return nil, fmt.Errorf("%q isn't known: want 'perRole=1,bake=24h', 'hosts=3,bake=24h' or 'where=EXPRESSION,bake=24h'", strings.TrimSpace(part))
		}
	}
	c := new(rollout.Canary)
	for _, item := range items {
		var err error
		switch value := strings.TrimSpace(item[1]); item[0] {
		case "hosts":
			c.Hosts, err = parseCount("hosts", value)
		case "perRole":
			c.PerRole, err = parseCount("perRole", value)
		case "where":
			c.Where = value
		case "bake":
			c.Bake, err = rollout.ParseDuration(value)
		}
		if err != nil {
			return nil, err
		}
	}
	return c, nil
}

const ruleForm = "want any of days (mon-thu), months (dec), days of the month (24-26, or -1 for the last), hours (09:00-16:00) and a time zone (Europe/Stockholm; else UTC)"

// parseRule reads recurring times: words in any order, each known by its looks.
func parseRule(text string) (r rollout.Rule, err error) {
	words := strings.Fields(text)
	if len(words) == 0 {
		return r, errors.New("it says nothing: " + ruleForm)
	}
	seen := make(map[string]string)
	for _, word := range words {
		kind, err := ruleWord(&r, word)
		if err != nil {
			return r, err
		}
		if before, ok := seen[kind]; ok {
			return r, fmt.Errorf("%q and %q both say %s: join them with a comma, or give two rules", before, word, kind)
		}
		seen[kind] = word
	}
	if word := seen["days of the month"]; word != "" && len(r.Months) == 0 && !strings.Contains(","+word, ",-") && !strings.Contains(word, ":-") {
		return r, fmt.Errorf("%q may be hours or days of the month: write hours as 09:00-16:00, and days of every month as 'jan-dec %s'", word, word)
	}
	return r, nil
}

// ruleWord reads one word into the rule, and says what kind of word it is.
func ruleWord(r *rollout.Rule, word string) (kind string, err error) {
	if from, to, ok := strings.Cut(word, "-"); ok && strings.Contains(from, ":") && strings.Contains(to, ":") && !strings.HasPrefix(to, "-") {
		if r.From, err = rollout.ParseTimeOfDay(from); err == nil {
			r.To, err = rollout.ParseTimeOfDay(to)
		}
		return "hours", err
	}
	if strings.Trim(word, "0123456789-:,") == "" {
		r.MonthDays, err = parseMonthDays(word)
		return "days of the month", err
	}
	if days, ok := nameList(word, allDays, func(d *rollout.Weekday, s string) error { return d.UnmarshalText([]byte(s)) }); ok {
		r.Days = days
		return "days", nil
	}
	if months, ok := nameList(word, allMonths, func(m *rollout.Month, s string) error { return m.UnmarshalJSON(strconv.AppendQuote(nil, s)) }); ok {
		r.Months = months
		return "months", nil
	}
	if err := r.Zone.UnmarshalText([]byte(word)); err != nil {
		return "", fmt.Errorf("%q isn't understood: %s", word, ruleForm)
	}
	return "a time zone", nil
}

var (
	allDays   = []rollout.Weekday{"mon", "tue", "wed", "thu", "fri", "sat", "sun"}
	allMonths = []rollout.Month{"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}
)

// nameList reads mon-thu or mon,wed: names of a circle, and stretches of it.
func nameList[T comparable](word string, circle []T, read func(*T, string) error) (list []T, ok bool) {
	for item := range strings.SplitSeq(word, ",") {
		first, last, isRange := strings.Cut(item, "-")
		if !isRange {
			last = first
		}
		var a, b T
		if read(&a, first) != nil || read(&b, last) != nil {
			return nil, false
		}
		for i := slices.Index(circle, a); ; i = (i + 1) % len(circle) {
			if !slices.Contains(list, circle[i]) {
				list = append(list, circle[i])
			}
			if circle[i] == b {
				break
			}
		}
	}
	return list, true
}

// parseMonthDays reads 25, 24-26, -1 or -5:-1, or several with commas.
func parseMonthDays(word string) (days []rollout.MonthDays, err error) {
	for item := range strings.SplitSeq(word, ",") {
		if i := strings.LastIndexByte(item, '-'); i > 0 && !strings.Contains(item, ":") {
			item = item[:i] + ":" + item[i+1:]
		}
		b, err := json.Marshal(item)
		if err != nil {
			return nil, err
		}
		var d rollout.MonthDays
		if err := d.UnmarshalJSON(b); err != nil {
			return nil, err
		}
		days = append(days, d)
	}
	return days, nil
}

// ruleText writes a rule as parseRule reads it.
func ruleText(r rollout.Rule) string {
	var words []string
	if len(r.Days) > 0 {
		words = append(words, nameText(r.Days, allDays))
	}
	switch {
	case len(r.Months) > 0:
		words = append(words, nameText(r.Months, allMonths))
	case len(r.MonthDays) > 0:
		words = append(words, "jan-dec")
	}
	if len(r.MonthDays) > 0 {
		all := make([]string, len(r.MonthDays))
		for i, d := range r.MonthDays {
			all[i] = d.String()
		}
		words = append(words, strings.Join(all, ","))
	}
	if r.From != 0 || r.To != 0 {
		to := r.To
		if to == 0 {
			to = rollout.TimeOfDay(24 * time.Hour)
		}
		words = append(words, r.From.String()+"-"+to.String())
	}
	if len(words) == 0 {
		words = append(words, "always")
	}
	if r.Zone != "" {
		words = append(words, string(r.Zone))
	}
	return strings.Join(words, " ")
}

// nameText writes names with stretches of three or more as mon-thu.
func nameText[T ~string](list, circle []T) string {
	var out []string
	for i := 0; i < len(list); {
		j := i + 1
		for j < len(list) && circle[(slices.Index(circle, list[j-1])+1)%len(circle)] == list[j] {
			j++
		}
		if j-i > 2 {
			out = append(out, string(list[i])+"-"+string(list[j-1]))
		} else {
			for _, name := range list[i:j] {
				out = append(out, string(name))
			}
		}
		i = j
	}
	return strings.Join(out, ",")
}

// rulesText writes rules, or that there are none.
func rulesText(rules []rollout.Rule) string {
	all := make([]string, len(rules))
	for i, r := range rules {
		all[i] = ruleText(r)
	}
	return strings.Join(all, "; ")
}

// rampText says what a ramp does: linear over 2w.
func rampText(r rollout.Ramp) string {
	over := rollout.Duration(r.Length()).String()
	switch {
	case r.Preset != "":
		return fmt.Sprintf("%s: linear over %s", r.Preset, over)
	case r.Shape == rollout.Waves:
		all := make([]string, len(r.Waves))
		for i, w := range r.Waves {
			all[i] = w.Percent.String()
			if w.Approval {
				all[i] += " once approved"
			}
			if w.Hold > 0 {
				all[i] += ", " + w.Hold.String()
			}
		}
		return fmt.Sprintf("%d waves over %s: %s", len(r.Waves), over, strings.Join(all, "; "))
	case r.Shape == rollout.Points:
		all := make([]string, len(r.Points))
		for i, p := range r.Points {
			all[i] = p.Percent.String() + " by " + p.At.String()
		}
		return fmt.Sprintf("points over %s: %s", over, strings.Join(all, ", "))
	case r.Shape == rollout.Exponential:
		growth := r.Growth
		if growth == 0 {
			growth = 10 // the core's default
		}
		return fmt.Sprintf("exponential over %s, ends %v times as fast as it starts", over, growth)
	}
	return "linear over " + over
}
