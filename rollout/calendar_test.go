package rollout

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the tests' answers must not depend on the machine's data

	"pgregory.net/rapid"
)

// The oracle is the definition and nothing else: what the clock on the wall
// shows, read minute by minute.

func oracleDate(r *Rule, year int, m time.Month, d int) bool {
	date := time.Date(year, m, d, 0, 0, 0, 0, time.UTC)
	length := date.AddDate(0, 1, -date.Day()).Day()
	day := len(r.MonthDays) == 0
	for _, md := range r.MonthDays {
		first, last := md.First, md.Last
		if first < 0 {
			first += length + 1
		}
		if last < 0 {
			last += length + 1
		}
		day = day || date.Day() >= first && date.Day() <= last
	}
	return day &&
		(len(r.Days) == 0 || slices.Contains(r.Days, Weekday(strings.ToLower(date.Weekday().String()[:3])))) &&
		(len(r.Months) == 0 || slices.Contains(r.Months, Month(strings.ToLower(date.Month().String()[:3]))))
}

func oracleRule(r *Rule, t time.Time) bool {
	zone, err := r.Zone.Location()
	if err != nil {
		panic(err)
	}
	wall := t.In(zone)
	year, m, d := wall.Date()
	clock := time.Duration(wall.Hour())*time.Hour + time.Duration(wall.Minute())*time.Minute + time.Duration(wall.Second())*time.Second + time.Duration(wall.Nanosecond())
	from, to := time.Duration(r.From), time.Duration(r.To)
	if to <= from {
		return clock >= from && oracleDate(r, year, m, d) || clock < to && oracleDate(r, year, m, d-1)
	}
	return clock >= from && clock < to && oracleDate(r, year, m, d)
}

func oracleAny(rules []Rule, t time.Time) bool {
	return slices.ContainsFunc(rules, func(r Rule) bool { return oracleRule(&r, t) })
}

// oracle gives the reason why the clock doesn't run, without its Until.
func oracle(windows []Rule, blackouts []*Blackout, t time.Time) Reason {
	for _, b := range blackouts {
		if (b.From.IsZero() || !t.Before(b.From)) && (b.Until.IsZero() || t.Before(b.Until)) && (len(b.Every) == 0 || oracleAny(b.Every, t)) {
			return Reason{Code: InBlackout, Blackout: b.Name, Detail: b.Why}
		}
	}
	if len(windows) > 0 && !oracleAny(windows, t) {
		return Reason{Code: OutsideWindow}
	}
	return Reason{}
}

// turns are instants near which a zone's clock was changed, or skipped a day.
var turns = []struct {
	zone Zone
	at   string
}{
	{"Europe/Stockholm", "2026-03-29T01:00:00Z"},
	{"Europe/Stockholm", "2026-10-25T01:00:00Z"},
	{"America/New_York", "2027-03-14T07:00:00Z"},
	{"America/New_York", "2026-11-01T06:00:00Z"},
	{"Asia/Kolkata", "2026-12-31T18:30:00Z"},
	{"Australia/Lord_Howe", "2026-04-04T15:00:00Z"},
	{"Australia/Lord_Howe", "2026-10-03T15:30:00Z"},
	{"Pacific/Apia", "2011-12-30T10:00:00Z"},
	{"", "2028-02-29T00:00:00Z"},
}

func drawRule(t *rapid.T, zone Zone) Rule {
	minutes := func(label string) TimeOfDay {
		return TimeOfDay(rapid.OneOf(rapid.IntRange(0, 1439), rapid.SampledFrom([]int{0, 60, 90, 120, 150, 180, 1380})).Draw(t, label)) * TimeOfDay(time.Minute)
	}
	r := Rule{Zone: zone}
	if rapid.Bool().Draw(t, "hours") {
		if r.From, r.To = minutes("from"), minutes("to"); r.From == r.To {
			r.From, r.To = 0, 0
		}
	}
	if rapid.Bool().Draw(t, "some days") {
		for _, d := range rapid.SliceOfN(rapid.SampledFrom(weekdays), 1, 5).Draw(t, "days") {
			r.Days = append(r.Days, Weekday(d))
		}
	}
	r.MonthDays = rapid.SampledFrom([][]MonthDays{nil, nil, {{25, -1}}, {{1, 3}, {-1, -1}}, {{28, 29}}, {{30, 31}}}).Draw(t, "days of the month")
	r.Months = rapid.SampledFrom([][]Month{nil, nil, nil, {"mar", "dec"}, {"jan", "feb", "oct"}}).Draw(t, "months")
	return r
}

func drawRules(t *rapid.T, zone Zone, most int, label string) (rules []Rule) {
	for range rapid.IntRange(0, most).Draw(t, label) {
		if rapid.IntRange(0, 3).Draw(t, "elsewhere") == 0 {
			zone = rapid.SampledFrom(turns).Draw(t, "zone").zone
		}
		rules = append(rules, drawRule(t, zone))
	}
	return rules
}

func TestCalendarAgainstTheWall(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		turn := rapid.SampledFrom(turns).Draw(t, "turn")
		begin := instant(t, turn.at).Add(-time.Duration(rapid.IntRange(10*60, 50*60).Draw(t, "minutes before")) * time.Minute)
		const length = 4 * 24 * 60 // minutes
		windows := drawRules(t, turn.zone, 3, "windows")
		var blackouts []*Blackout
		for _, name := range []ID{"one", "two"}[:rapid.IntRange(0, 2).Draw(t, "blackouts")] {
			b := &Blackout{Name: name, Why: "because", Every: drawRules(t, turn.zone, 2, "rules")}
			if len(b.Every) == 0 || rapid.Bool().Draw(t, "bounded") {
				b.From = begin.Add(time.Duration(rapid.IntRange(-600, length).Draw(t, "start")) * time.Minute)
				b.Until = b.From.Add(time.Duration(rapid.IntRange(1, 3000).Draw(t, "minutes")) * time.Minute)
			}
			blackouts = append(blackouts, b)
		}

		reasons := make([]Reason, length)
		before := make([]time.Duration, length+1) // open time before each minute
		for i := range reasons {
			reasons[i] = oracle(windows, blackouts, begin.Add(time.Duration(i)*time.Minute))
			before[i+1] = before[i]
			if reasons[i].Code == "" {
				before[i+1] += time.Minute
			}
		}
		at := func(i int) time.Time { return begin.Add(time.Duration(i) * time.Minute) }
		end := at(length)
		c := newCalendar(windows, blackouts)
		bare := func(r Reason) Reason { r.Until = time.Time{}; return r }

		// The spans tile the time, each is as long as it can be, and what it
		// says holds in all of it.
		for from := begin; from.Before(end); {
			s := c.at(from)
			if from.After(begin) && !s.from.Equal(from) {
				t.Fatalf("the span at %v begins at %v", from, s.from)
			}
			if from.Equal(begin) && s.from.After(begin) {
				t.Fatalf("the span at %v begins later, at %v", from, s.from)
			}
			until := s.until
			if until.IsZero() || until.After(end) {
				until = end
			}
			if !until.After(from) || !until.Equal(until.Truncate(time.Minute)) {
				t.Fatalf("the span at %v ends at %v", from, s.until)
			}
			first, last := int(from.Sub(begin)/time.Minute), int(until.Sub(begin)/time.Minute)
			for i := first; i < last; i++ {
				if bare(s.why) != reasons[i] {
					t.Fatalf("at %v: %+v, want %+v", at(i), s.why, reasons[i])
				}
			}
			if last < length && bare(s.why) == reasons[last] {
				t.Fatalf("the span at %v ends at %v, where nothing changes", from, until)
			}
			opens := last
			for opens < length && reasons[opens].Code != "" {
				opens++
			}
			if got := s.why.Until; s.why.Code != "" && opens < length && !got.Equal(at(opens)) ||
				s.why.Code != "" && opens == length && !got.IsZero() && got.Before(end) || s.why.Code == "" && !got.IsZero() {
				t.Fatalf("at %v: open again at %v, want %v", from, got, at(opens))
			}
			inside := from.Add(rapid.Custom(func(t *rapid.T) time.Duration {
				return time.Duration(rapid.Int64Range(0, int64(until.Sub(from))-1).Draw(t, "ns"))
			}).Draw(t, "inside"))
			fresh, again := newCalendar(windows, blackouts).at(inside), c.at(inside)
			want := s
			if inside.UTC().Year() != from.UTC().Year() { // the horizon is another: what lay beyond may be seen
				if want.until.IsZero() {
					want.until = fresh.until
				}
				if want.why.Until.IsZero() {
					want.why.Until = fresh.why.Until
				}
				if fresh.from.IsZero() {
					want.from = fresh.from
				}
			}
			if fresh != want || again != want {
				t.Fatalf("at %v: %+v when asked first, %+v when asked again, and the span is %+v", inside, fresh, again, s)
			}
			from = until
		}

		// Open time is what the oracle counts, adds up, and after is its inverse.
		minute := rapid.IntRange(0, length)
		i, j := minute.Draw(t, "i"), minute.Draw(t, "j")
		i, j = min(i, j), max(i, j)
		const plenty = 1000 * time.Hour
		total := c.open(at(i), at(j), plenty)
		if total != before[j]-before[i] {
			t.Fatalf("%v open from %v to %v, want %v", total, at(i), at(j), before[j]-before[i])
		}
		most := time.Duration(rapid.Int64Range(0, int64(50*time.Hour)).Draw(t, "most"))
		if got := c.open(at(i), at(j), most); got != min(total, most) {
			t.Fatalf("%v open and at most %v is %v", total, most, got)
		}
		middle := at(i).Add(time.Duration(rapid.Int64Range(0, int64(at(j).Sub(at(i)))).Draw(t, "middle")))
		if a, b := c.open(at(i), middle, plenty), c.open(middle, at(j), plenty); a+b != total {
			t.Fatalf("%v and %v make %v", a, b, total)
		}
		if total > 0 {
			d := time.Duration(rapid.Int64Range(1, int64(total)).Draw(t, "d"))
			got := c.after(at(i), d)
			if got.After(at(j)) || c.open(at(i), got, plenty) != d || c.open(at(i), got.Add(-1), plenty) != d-1 {
				t.Fatalf("%v of open time after %v is %v: there it is %v", d, at(i), got, c.open(at(i), got, plenty))
			}
		}
		opens := i
		for opens < length && reasons[opens].Code != "" {
			opens++
		}
		if got := c.after(at(i), 0); opens < length && !got.Equal(at(opens)) || opens == length && !got.IsZero() && got.Before(end) {
			t.Fatalf("the first open instant from %v on is %v, want %v", at(i), got, at(opens))
		}
	})
}

type fataler interface {
	Helper()
	Fatal(args ...any)
}

func instant(t fataler, s string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// openTimes lists the open spans that begin in the time given.
func openTimes(c *calendar, from, until time.Time) (list []string) {
	for t := c.after(from, 0); !t.IsZero() && t.Before(until); {
		s := c.at(t)
		list = append(list, s.from.Format("01-02T15:04")+" "+s.until.Sub(s.from).String())
		t = c.after(s.until, 0)
	}
	return list
}

func TestWindows(t *testing.T) {
	hour := TimeOfDay(time.Hour)
	for name, tt := range map[string]struct {
		rule        Rule
		from, until string
		want        []string // in UTC
	}{
		"forward in Stockholm, what is skipped never comes": {
			Rule{From: 2 * hour, To: 3 * hour, Zone: "Europe/Stockholm"}, "2026-03-28T00:00:00Z", "2026-03-31T00:00:00Z",
			[]string{"03-28T01:00 1h0m0s", "03-30T00:00 1h0m0s"}},
		"forward in Stockholm, overnight is an hour short": {
			Rule{From: 22 * hour, To: 6 * hour, Zone: "Europe/Stockholm"}, "2026-03-28T12:00:00Z", "2026-03-30T12:00:00Z",
			[]string{"03-28T21:00 7h0m0s", "03-29T20:00 8h0m0s"}},
		"back in Stockholm, what comes twice counts twice": {
			Rule{From: 2 * hour, To: 3 * hour, Zone: "Europe/Stockholm"}, "2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z",
			[]string{"10-25T00:00 2h0m0s", "10-26T01:00 1h0m0s"}},
		"back in Stockholm, half of what comes twice is two spans": {
			Rule{From: 2 * hour, To: 2*hour + 30*TimeOfDay(time.Minute), Zone: "Europe/Stockholm"}, "2026-10-24T12:00:00Z", "2026-10-25T12:00:00Z",
			[]string{"10-25T00:00 30m0s", "10-25T01:00 30m0s"}},
		"forward in New York": {
			Rule{Days: []Weekday{"sat"}, From: 23 * hour, To: 4 * hour, Zone: "America/New_York"}, "2027-03-12T00:00:00Z", "2027-03-20T00:00:00Z",
			[]string{"03-14T04:00 4h0m0s"}},
		"back in New York": {
			Rule{Days: []Weekday{"sat"}, From: 23 * hour, To: 4 * hour, Zone: "America/New_York"}, "2026-10-30T00:00:00Z", "2026-11-07T00:00:00Z",
			[]string{"11-01T03:00 6h0m0s"}},
		"half an hour in Kolkata": {
			Rule{From: 9 * hour, To: 17 * hour, Zone: "Asia/Kolkata"}, "2026-12-31T00:00:00Z", "2027-01-01T00:00:00Z",
			[]string{"12-31T03:30 8h0m0s"}},
		"back by half an hour on Lord Howe": {
			Rule{From: 1 * hour, To: 3 * hour, Zone: "Australia/Lord_Howe"}, "2026-04-04T00:00:00Z", "2026-04-05T00:00:00Z",
			[]string{"04-04T14:00 2h30m0s"}},
		"forward by half an hour on Lord Howe": {
			Rule{From: 1 * hour, To: 3 * hour, Zone: "Australia/Lord_Howe"}, "2026-10-03T00:00:00Z", "2026-10-04T00:00:00Z",
			[]string{"10-03T14:30 1h30m0s"}},
		"the Friday that Apia never had": {
			Rule{Days: []Weekday{"thu", "fri"}, Zone: "Pacific/Apia"}, "2011-12-28T00:00:00Z", "2012-01-04T00:00:00Z",
			[]string{"12-29T10:00 24h0m0s"}},
		"the morning after the Friday that Apia never had": {
			Rule{Days: []Weekday{"fri"}, From: 22 * hour, To: 6 * hour, Zone: "Pacific/Apia"}, "2011-12-28T00:00:00Z", "2012-01-05T00:00:00Z",
			[]string{"12-30T10:00 6h0m0s"}},
		"weekdays join up": {
			Rule{Days: []Weekday{"mon", "tue", "wed", "thu", "fri"}}, "2026-11-21T00:00:00Z", "2026-12-05T00:00:00Z",
			[]string{"11-23T00:00 120h0m0s", "11-30T00:00 120h0m0s"}},
		"the last days of a quarter": {
			Rule{Months: []Month{"mar", "jun", "sep", "dec"}, MonthDays: []MonthDays{{-3, -1}}}, "2027-01-01T00:00:00Z", "2028-01-01T00:00:00Z",
			[]string{"03-29T00:00 72h0m0s", "06-28T00:00 72h0m0s", "09-28T00:00 72h0m0s", "12-29T00:00 72h0m0s"}},
		"from the 30th on, in months that have one": {
			Rule{Months: []Month{"jan", "feb", "apr"}, MonthDays: []MonthDays{{30, -1}}}, "2027-01-01T00:00:00Z", "2028-01-01T00:00:00Z",
			[]string{"01-30T00:00 48h0m0s", "04-30T00:00 24h0m0s"}},
		"the 29th of February": {
			Rule{Months: []Month{"feb"}, MonthDays: []MonthDays{{29, 29}}}, "2026-01-01T00:00:00Z", "2030-01-01T00:00:00Z",
			[]string{"02-29T00:00 24h0m0s"}},
		"the last day of February": {
			Rule{Months: []Month{"feb"}, MonthDays: []MonthDays{{-1, -1}}, To: 8 * hour}, "2027-01-01T00:00:00Z", "2029-01-01T00:00:00Z",
			[]string{"02-28T00:00 8h0m0s", "02-29T00:00 8h0m0s"}},
		"the night of the last day of the year": {
			Rule{Months: []Month{"dec"}, MonthDays: []MonthDays{{31, 31}}, From: 20*hour + 30*TimeOfDay(time.Second), To: 1 * hour}, "2026-12-01T00:00:00Z", "2027-12-01T00:00:00Z",
			[]string{"12-31T20:00 4h59m30s"}},
		"before 1970": {
			Rule{From: 22 * hour, To: 2 * hour}, "1969-12-30T12:00:00Z", "1970-01-01T12:00:00Z",
			[]string{"12-30T22:00 4h0m0s", "12-31T22:00 4h0m0s"}},
	} {
		t.Run(name, func(t *testing.T) {
			tt.rule.validate(func(field, format string, _ ...any) { t.Errorf("%s: %s", field, format) })
			got := openTimes(newCalendar([]Rule{tt.rule}, nil), instant(t, tt.from), instant(t, tt.until))
			if !slices.Equal(got, tt.want) {
				t.Errorf("open at %q, want %q", got, tt.want)
			}
		})
	}
}

func TestCalendarReasons(t *testing.T) {
	hour := TimeOfDay(time.Hour)
	// Working hours in Stockholm; Christmas begins on a Thursday at noon.
	c := newCalendar(
		[]Rule{{Days: []Weekday{"mon", "tue", "wed", "thu"}, From: 9 * hour, To: 16 * hour, Zone: "Europe/Stockholm"}},
		[]*Blackout{{Name: "christmas", From: instant(t, "2026-12-17T12:00:00.000000005+01:00"), Until: instant(t, "2027-01-04T00:00:00+01:00"), Why: "change freeze"}},
	)
	christmas := Reason{Code: InBlackout, Blackout: "christmas", Detail: "change freeze", Until: instant(t, "2027-01-04T08:00:00Z")}
	for _, tt := range []struct {
		at   string
		want span
	}{
		{"2026-12-17T08:00:00Z", span{from: instant(t, "2026-12-17T08:00:00Z"), until: instant(t, "2026-12-17T11:00:00.000000005Z")}},
		{"2026-12-17T11:00:00.000000004Z", span{from: instant(t, "2026-12-17T08:00:00Z"), until: instant(t, "2026-12-17T11:00:00.000000005Z")}},
		{"2026-12-17T11:00:00.000000005Z", span{instant(t, "2026-12-17T11:00:00.000000005Z"), instant(t, "2027-01-03T23:00:00Z"), christmas}},
		{"2027-01-03T22:59:59.999999999Z", span{instant(t, "2026-12-17T11:00:00.000000005Z"), instant(t, "2027-01-03T23:00:00Z"), christmas}},
		{"2027-01-03T23:00:00Z", span{instant(t, "2027-01-03T23:00:00Z"), instant(t, "2027-01-04T08:00:00Z"), Reason{Code: OutsideWindow, Until: instant(t, "2027-01-04T08:00:00Z")}}},
		{"2027-01-07T15:00:00Z", span{instant(t, "2027-01-07T15:00:00Z"), instant(t, "2027-01-11T08:00:00Z"), Reason{Code: OutsideWindow, Until: instant(t, "2027-01-11T08:00:00Z")}}},
	} {
		if got := c.at(instant(t, tt.at)); !got.from.Equal(tt.want.from) || !got.until.Equal(tt.want.until) || got.why != tt.want.why {
			t.Errorf("at %s: %+v\nwant %+v", tt.at, got, tt.want)
		}
	}
	if got, want := c.after(instant(t, "2026-12-17T10:00:00Z"), 2*time.Hour), instant(t, "2027-01-04T08:59:59.999999995Z"); !got.Equal(want) {
		t.Errorf("two hours are over at %v, want %v", got, want)
	}
}

func TestCalendarBeyondTheHorizon(t *testing.T) {
	now := instant(t, "2026-11-23T12:00:00Z")
	var none *calendar
	if !none.always() || !newCalendar(nil, nil).always() || none.at(now) != (span{}) ||
		none.open(now, now.Add(3*time.Hour), time.Hour) != time.Hour || none.open(now, now.Add(-time.Hour), time.Hour) != 0 ||
		!none.after(now, time.Hour).Equal(now.Add(time.Hour)) || !none.after(now, -1).Equal(now) {
		t.Error("no calendar isn't always open")
	}

	for name, c := range map[string]*calendar{
		"blackout without an end": newCalendar(nil, []*Blackout{{Name: "ever", Every: []Rule{{}}}}),
		"blackout until 9999":     newCalendar(nil, []*Blackout{{Name: "ever", From: instant(t, "1000-01-01T00:00:00Z"), Until: instant(t, "9999-12-31T00:00:00Z")}}),
		"unknown zone, window":    newCalendar([]Rule{{Zone: "Mars/Olympus"}}, nil),
		"unknown zone, blackout":  newCalendar(nil, []*Blackout{{Name: "ever", Every: []Rule{{Zone: "Mars/Olympus"}}}}),
	} {
		s := c.at(now)
		if c.always() || s.why.Code == "" || !s.from.IsZero() || !s.until.IsZero() || !s.why.Until.IsZero() {
			t.Errorf("%s: %+v, want closed as far as can be seen", name, s)
		}
		if !c.after(now, 0).IsZero() || !c.after(now, 1).IsZero() || c.open(now, now.AddDate(5, 0, 0), time.Hour) != 0 {
			t.Errorf("%s: it opens", name)
		}
	}

	past := newCalendar(nil, []*Blackout{{Name: "past", From: now.AddDate(-5, 0, 0), Until: now.AddDate(-4, 0, 0)}})
	if s := past.at(now); s != (span{}) {
		t.Errorf("after the last blackout: %+v, want open as far as can be seen", s)
	}
	if got := past.after(now.AddDate(-5, 0, 0), time.Hour); !got.Equal(now.AddDate(-4, 0, 0).Add(time.Hour)) {
		t.Errorf("an hour after the start of a blackout of a year is %v", got)
	}
	// What is halfway known doesn't depend on what was asked before.
	far := newCalendar(nil, []*Blackout{{Name: "far", From: now.AddDate(4, 6, 0), Until: now.AddDate(5, 0, 0)}})
	if s := far.at(now); !s.until.IsZero() {
		t.Errorf("a blackout in %v is in sight", s.until)
	}
	if s := far.at(now.AddDate(2, 0, 0)); !s.until.Equal(now.AddDate(4, 6, 0)) {
		t.Errorf("a blackout in two and a half years isn't in sight: %+v", s)
	}
}

func TestBlackoutAt(t *testing.T) {
	weekends := &Blackout{Name: "weekends", Every: []Rule{{Days: []Weekday{"sat", "sun"}}}, From: instant(t, "2026-11-22T12:00:00Z"), Until: instant(t, "2026-11-28T18:00:00Z"), Where: `role == "web"`}
	for _, tt := range []struct {
		at      string
		inForce bool
		until   string
	}{
		{"2026-11-22T11:59:59Z", false, "2026-11-22T12:00:00Z"},
		{"2026-11-22T12:00:00Z", true, "2026-11-23T00:00:00Z"},
		{"2026-11-23T00:00:00Z", false, "2026-11-28T00:00:00Z"},
		{"2026-11-28T17:00:00Z", true, "2026-11-28T18:00:00Z"},
		{"2026-11-28T18:00:00Z", false, "0001-01-01T00:00:00Z"},
	} {
		if in, until := weekends.at(instant(t, tt.at)); in != tt.inForce || !until.Equal(instant(t, tt.until)) {
			t.Errorf("at %s: %v until %v, want %v until %s", tt.at, in, until, tt.inForce, tt.until)
		}
	}
}

func TestBlackoutValidate(t *testing.T) {
	from, until := instant(t, "2026-12-20T00:00:00Z"), instant(t, "2027-01-04T00:00:00Z")
	for _, tt := range []struct {
		b    Blackout
		want []string // the faulty fields
	}{
		{Blackout{Name: "christmas", From: from, Until: until, Where: `role != "lab"`, Why: "change freeze"}, nil},
		{Blackout{Name: "nights", Every: []Rule{{From: TimeOfDay(22 * time.Hour), To: TimeOfDay(6 * time.Hour)}}}, nil},
		{Blackout{Name: "nights", From: from, Every: []Rule{{}}}, nil},
		{Blackout{Name: "nights", Until: until, Every: []Rule{{}}}, nil},
		{Blackout{Name: "Christmas", From: from, Until: until}, []string{"name"}},
		{Blackout{Name: "never"}, []string{"from", "until"}},
		{Blackout{Name: "open", From: from}, []string{"until"}},
		{Blackout{Name: "empty", From: from, Until: from}, []string{"until"}},
		{Blackout{Name: "turned", From: until, Until: from, Every: []Rule{{}}}, []string{"until"}},
		{Blackout{Name: "where", From: from, Until: until, Where: "role ="}, []string{"where"}},
		{Blackout{Name: "why", From: from, Until: until, Why: strings.Repeat("x", 1025)}, []string{"why"}},
		{Blackout{Name: "why", From: from, Until: until, Why: "a\x1b[2J"}, []string{"why"}},
		{Blackout{Name: "rules", Every: []Rule{{}, {Months: []Month{"feb"}, MonthDays: []MonthDays{{30, 30}}}, {Zone: "Local"}}}, []string{"every[1].monthDays", "every[2].zone"}},
		{Blackout{Name: "rules", Every: make([]Rule, maxRules+1)}, []string{"every"}},
	} {
		if got := faultyFields(t, tt.b.Validate()); !slices.Equal(got, tt.want) {
			t.Errorf("%+v: faults in %q, want %q", tt.b, got, tt.want)
		}
	}
}

// faultyFields lists the fields of joined FieldErrors.
func faultyFields(t *testing.T, err error) (fields []string) {
	t.Helper()
	if err == nil {
		return nil
	}
	for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
		f, ok := errors.AsType[*FieldError](e)
		if !ok || f.Problem == "" {
			t.Fatalf("%v isn't a fault in a field", e)
		}
		fields = append(fields, f.Field)
	}
	return fields
}

func BenchmarkCalendar(b *testing.B) {
	start := instant(b, "2026-11-23T00:00:00Z")
	windows := []Rule{{Days: []Weekday{"mon", "tue", "wed", "thu"}, From: TimeOfDay(9 * time.Hour), To: TimeOfDay(16 * time.Hour), Zone: "Europe/Stockholm"}}
	yearly := []*Blackout{{Name: "christmas", Every: []Rule{{Months: []Month{"dec"}, MonthDays: []MonthDays{{20, -1}}, Zone: "Europe/Stockholm"}}}}
	for _, tt := range []struct {
		name string
		c    *calendar
	}{
		{"windows", newCalendar(windows, nil)},
		{"windows and a holiday", newCalendar(windows, yearly)},
		{"holiday", newCalendar(nil, yearly)},
		{"quarters of days", newCalendar([]Rule{{To: TimeOfDay(12 * time.Hour)}, {From: TimeOfDay(12 * time.Hour)}}, nil)},
	} {
		b.Run("open over a year/"+tt.name, func(b *testing.B) {
			for b.Loop() {
				if tt.c.open(start, start.AddDate(1, 0, 0), 1e18) == 0 {
					b.Fatal("never open")
				}
			}
		})
		b.Run("at, asked anew/"+tt.name, func(b *testing.B) {
			for b.Loop() {
				tt.c.known = false
				if tt.c.at(start) == (span{why: Reason{Code: Ended}}) {
					b.Fatal("ended")
				}
			}
		})
		b.Run("at, asked again/"+tt.name, func(b *testing.B) {
			for b.Loop() {
				if tt.c.at(start) == (span{why: Reason{Code: Ended}}) {
					b.Fatal("ended")
				}
			}
		})
	}
}
