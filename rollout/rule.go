package rollout

import (
	"encoding/json"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tsunami-rollouts/tsunami/field"
)

// Rule is a set of recurring times: every day that matches Days, Months and
// MonthDays, from From to To. It is read by the wall clock of Zone, and by
// nothing else: the rule is in force at an instant if the clock on the wall
// shows one of its times then. So in the night when clocks are put forward the
// times that are skipped don't come, and in the night when they are put back
// the times that come twice count twice.
type Rule struct {
	Days      []Weekday   `json:"days,omitempty"`      // default: every day of the week
	Months    []Month     `json:"months,omitempty"`    // default: every month
	MonthDays []MonthDays `json:"monthDays,omitempty"` // default: every day of the month
	From      TimeOfDay   `json:"from,omitzero"`       // default: 00:00
	// To isn't included. One that isn't later than From is a time of the next
	// day, and what comes after midnight belongs to the day before it: "22:00"
	// to "06:00" on fri ends on Saturday morning. Default: 24:00.
	To   TimeOfDay `json:"to,omitzero"`
	Zone Zone      `json:"zone,omitempty"` // default: UTC
}

// Weekday is a day of the week: mon, tue, wed, thu, fri, sat or sun. It reads
// long names and any case too.
type Weekday string

// Month is a month: jan, feb, … dec. It reads long names, any case and 1 to 12
// too.
type Month string

var (
	weekdays = shortNames(7, func(i int) string { return time.Weekday(i).String() }) // from sun
	months   = shortNames(12, func(i int) string { return time.Month(i + 1).String() })
)

func shortNames(n int, long func(i int) string) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = strings.ToLower(long(i)[:3])
	}
	return names
}

// UnmarshalText reads mon, Mon or Monday.
func (d *Weekday) UnmarshalText(b []byte) error {
	s := strings.ToLower(string(b))
	for i, short := range weekdays {
		if s == short || s == strings.ToLower(time.Weekday(i).String()) {
			*d = Weekday(short)
			return nil
		}
	}
	return fmt.Errorf("%q isn't a day of the week: want mon, tue, wed, thu, fri, sat or sun", field.Shorten(string(b)))
}

// UnmarshalJSON reads "jan", "Jan", "January", 1 or "1".
func (m *Month) UnmarshalJSON(b []byte) error {
	s, err := scalar(b)
	if err != nil {
		return err
	}
	lower := strings.ToLower(s)
	for i, short := range months {
		if lower == short || lower == strings.ToLower(time.Month(i+1).String()) || s == strconv.Itoa(i+1) {
			*m = Month(short)
			return nil
		}
	}
	return fmt.Errorf("%q isn't a month: want jan, feb, mar, apr, may, jun, jul, aug, sep, oct, nov, dec, or 1 to 12", field.Shorten(s))
}

// scalar gives a JSON string's contents, and anything else as it is written.
func scalar(b []byte) (s string, err error) {
	if len(b) == 0 || b[0] != '"' {
		return string(b), nil
	}
	err = json.Unmarshal(b, &s)
	return s, err
}

// MonthDays are days of a month: from 1 on counted from its start, from -1 on
// back from its end, so that -1 is its last day. It reads 25, "25", "1:5",
// "-5:-1" and "25:-1". Days that a month doesn't have are left out.
type MonthDays struct {
	First, Last int
}

// UnmarshalJSON reads 25, "25", "1:5", "-5:-1" or "25:-1".
func (d *MonthDays) UnmarshalJSON(b []byte) error {
	s, err := scalar(b)
	if err != nil {
		return err
	}
	first, last, isRange := strings.Cut(s, ":")
	if !isRange {
		last = first
	}
	f, errF := strconv.Atoi(first)
	l, errL := strconv.Atoi(last)
	if errF != nil || errL != nil {
		return fmt.Errorf(`%q isn't days of a month: want 25, "1:5", "-5:-1" or "25:-1", where -1 is the last day`, field.Shorten(s))
	}
	read := MonthDays{f, l}
	if err := read.check(); err != nil {
		return err
	}
	*d = read
	return nil
}

func (d MonthDays) check() error {
	for _, n := range []int{d.First, d.Last} {
		if n == 0 || n < -31 || n > 31 {
			return fmt.Errorf("%d isn't a day of a month: want 1 to 31, or -1 (the last) to -31", n)
		}
	}
	if d.First < 0 && d.Last > 0 {
		return fmt.Errorf("%s runs from a month's end to its start: give two ranges, such as %d:-1 and 1:%d", d, d.First, d.Last)
	}
	if (d.First < 0) == (d.Last < 0) && d.First > d.Last {
		return fmt.Errorf("%s runs backwards: the earlier day comes first", d)
	}
	return nil
}

// String gives 25 or 1:5.
func (d MonthDays) String() string {
	if d.First == d.Last {
		return strconv.Itoa(d.First)
	}
	return fmt.Sprintf("%d:%d", d.First, d.Last)
}

// MarshalJSON writes a number for a single day and a string for a range.
func (d MonthDays) MarshalJSON() ([]byte, error) {
	if d.First == d.Last {
		return []byte(strconv.Itoa(d.First)), nil
	}
	return json.Marshal(d.String())
}

// mask has bit n set for day n of a month of so many days.
func (d MonthDays) mask(length int) (mask uint32) {
	first, last := d.First, d.Last
	if first < 0 {
		first = max(length+1+first, 1)
	}
	if last < 0 {
		last = length + 1 + last
	}
	for n := first; n <= min(last, length); n++ {
		mask |= 1 << n
	}
	return mask
}

// TimeOfDay is a time that a clock shows, as the time since midnight: whole
// seconds from 00:00 to 24:00.
type TimeOfDay time.Duration

const wholeDay = TimeOfDay(24 * time.Hour)

// ParseTimeOfDay reads 09:00, 09:00:30 or 24:00.
func ParseTimeOfDay(s string) (TimeOfDay, error) {
	bad := fmt.Errorf("%q isn't a time of day: want hours and minutes, such as 09:00, or 09:00:30 with seconds; 24:00 is the day's end", field.Shorten(s))
	if len(s) != len("00:00") && len(s) != len("00:00:00") {
		return 0, bad
	}
	var t TimeOfDay
	for i, unit := range []time.Duration{time.Hour, time.Minute, time.Second}[:len(s)/3+1] {
		part := s[3*i : 3*i+2]
		n, err := strconv.ParseUint(part, 10, 8)
		if err != nil || i > 0 && (n > 59 || s[3*i-1] != ':') {
			return 0, bad
		}
		t += TimeOfDay(time.Duration(n) * unit)
	}
	if t > wholeDay {
		return 0, bad
	}
	return t, nil
}

// String gives 09:00, or 09:00:30 where there are seconds.
func (t TimeOfDay) String() string {
	d := time.Duration(t)
	s := fmt.Sprintf("%02d:%02d", d/time.Hour, d/time.Minute%60)
	if sec := d / time.Second % 60; sec != 0 {
		s += fmt.Sprintf(":%02d", sec)
	}
	return s
}

// MarshalText writes what UnmarshalText reads.
func (t TimeOfDay) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads 09:00, 09:00:30 or 24:00.
func (t *TimeOfDay) UnmarshalText(b []byte) (err error) {
	*t, err = ParseTimeOfDay(string(b))
	return err
}

// Zone is the IANA name of a time zone, such as Europe/Stockholm. The empty
// Zone is UTC.
type Zone string

// locations keeps the zones that were read, since reading one is reading a file.
var locations sync.Map // Zone → *time.Location

// Location gives the zone's rules. Its error says that the name isn't a zone's,
// or that this machine's time zone data lack it.
func (z Zone) Location() (*time.Location, error) {
	if l, ok := locations.Load(z); ok {
		return l.(*time.Location), nil
	}
	if err := z.check(); err != nil {
		return nil, err
	}
	l, err := time.LoadLocation(string(z))
	if err != nil {
		return nil, fmt.Errorf("%q isn't a known time zone: want an IANA name, such as Europe/Stockholm or UTC", field.Shorten(string(z)))
	}
	locations.Store(z, l)
	return l, nil
}

// check refuses names that mean another zone on another machine, names that
// aren't zones by wall clocks, and paths.
func (z Zone) check() error {
	switch z {
	case "":
		return nil
	case "Local", "localtime", "posixrules":
		return fmt.Errorf("%q depends on the machine that reads it: want an IANA name, such as Europe/Stockholm or UTC", string(z))
	}
	bad := fmt.Errorf("%q isn't a time zone: want an IANA name, such as Europe/Stockholm or UTC", field.Shorten(string(z)))
	if len(z) > 64 || strings.HasPrefix(string(z), "right/") || strings.HasPrefix(string(z), "posix/") {
		return bad
	}
	for part := range strings.SplitSeq(string(z), "/") {
		if part == "" || strings.Trim(part, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+-") != "" {
			return bad
		}
	}
	return nil
}

// UnmarshalText reads a zone's name and checks that it is known.
func (z *Zone) UnmarshalText(b []byte) error {
	if _, err := Zone(b).Location(); err != nil {
		return err
	}
	*z = Zone(b)
	return nil
}

// maxRules bounds the rules of one document, and with them what asking about
// an instant costs.
const maxRules = 20

// validateRules checks the rules of a document's field, such as windows.
func validateRules(field string, rules []Rule, add func(field, format string, args ...any)) {
	if len(rules) > maxRules {
		add(field, "%d rules are too many: at most %d", len(rules), maxRules)
		return
	}
	for i := range rules {
		rules[i].validate(func(name, format string, args ...any) {
			at := fmt.Sprintf("%s[%d]", field, i)
			if name != "" {
				at += "." + name
			}
			add(at, format, args...)
		})
	}
}

// validate calls add for each fault, with the field's name.
func (r *Rule) validate(add func(field, format string, args ...any)) {
	ok := true
	fault := func(field, format string, args ...any) { ok = false; add(field, format, args...) }
	for i, d := range r.Days {
		if !slices.Contains(weekdays, string(d)) {
			fault(fmt.Sprintf("days[%d]", i), "%q isn't a day of the week: want mon, tue, wed, thu, fri, sat or sun", field.Shorten(string(d)))
		}
	}
	for i, m := range r.Months {
		if !slices.Contains(months, string(m)) {
			fault(fmt.Sprintf("months[%d]", i), "%q isn't a month: want jan, feb, … dec, or 1 to 12", field.Shorten(string(m)))
		}
	}
	for i, d := range r.MonthDays {
		if err := d.check(); err != nil {
			fault(fmt.Sprintf("monthDays[%d]", i), "%v", err)
		}
	}
	if n := max(len(r.Days), len(r.Months), len(r.MonthDays)); n > 31 {
		fault("days", "days, months or monthDays has %d entries: at most 31", n)
	}
	if r.From < 0 || r.From >= wholeDay || time.Duration(r.From)%time.Second != 0 {
		fault("from", "%s isn't a time of day from 00:00 to 23:59:59", r.From)
	}
	if r.To < 0 || r.To > wholeDay || time.Duration(r.To)%time.Second != 0 {
		fault("to", "%s isn't a time of day from 00:00 to 24:00", r.To)
	}
	if r.From != 0 && r.From == r.To {
		fault("to", "from and to are both %s: leave both out for the whole day", r.From)
	}
	c, err := compile(r)
	if err != nil {
		fault("zone", "%v", err)
	}
	if ok && !c.everComes() {
		fault("monthDays", "no month that is allowed has such a day: the rule would never be in force")
	}
}

// rule is a Rule made ready for asking. Its times are in seconds.
type rule struct {
	zone   *time.Location
	from   int64  // since midnight
	to     int64  // since the midnight before from: above it by at most a day
	days   uint64 // bit n: a day n days after a Sunday, for 0 <= n < 63
	months uint16 // bit n: month n+1
	// monthDays has bit n set for day n, for months of 28 to 31 days.
	monthDays [4]uint32
}

const day = 24 * 60 * 60

// compile makes a rule ready. Its error is of the zone.
func compile(r *Rule) (c rule, err error) {
	if c.zone, err = r.Zone.Location(); err != nil {
		return rule{}, err
	}
	c.from, c.to = int64(r.From)/int64(time.Second), int64(r.To)/int64(time.Second)
	if c.to <= c.from {
		c.to += day
	}
	for i, name := range weekdays {
		if len(r.Days) == 0 || slices.Contains(r.Days, Weekday(name)) {
			for n := i; n < 63; n += 7 {
				c.days |= 1 << n
			}
		}
	}
	for i, name := range months {
		if len(r.Months) == 0 || slices.Contains(r.Months, Month(name)) {
			c.months |= 1 << i
		}
	}
	for i := range c.monthDays {
		list := r.MonthDays
		if len(list) == 0 {
			list = []MonthDays{{1, -1}}
		}
		for _, d := range list {
			c.monthDays[i] |= d.mask(28 + i)
		}
	}
	return c, nil
}

// everComes says whether there is a date that matches. Every date, the 29th of
// February too, falls on every day of the week in some year.
func (c *rule) everComes() bool {
	for m := range 12 {
		longest := daysIn(2024, time.Month(m+1)) // a leap year
		if c.months&(1<<m) != 0 && c.days != 0 && (c.monthDays[longest-28] != 0 || m == 1 && c.monthDays[0] != 0) {
			return true
		}
	}
	return false
}

func daysIn(year int, m time.Month) int { return time.Date(year, m+1, 0, 0, 0, 0, 0, time.UTC).Day() }

// month has bit n set for every day n of the month that matches.
func (c *rule) month(year int, m time.Month, length int) uint32 {
	if c.months&(1<<(m-1)) == 0 {
		return 0
	}
	first := time.Date(year, m, 1, 0, 0, 0, 0, time.UTC).Weekday()
	return c.monthDays[length-28] & uint32(c.days>>first<<1)
}

// matches says whether the date, in days since 1970-01-01, matches.
func (c *rule) matches(date int64) bool {
	year, m, d := time.Unix(date*day, 0).UTC().Date()
	return c.month(year, m, daysIn(year, m))&(1<<d) != 0
}

// next gives the first date from this one on that does or doesn't match, as
// want says, and one past limit where there is none up to limit.
func (c *rule) next(date, limit int64, want bool) int64 {
	year, m, d := time.Unix(date*day, 0).UTC().Date()
	for start := date - int64(d); start < limit; m, d = m+1, 1 { // start is the last day of the month before
		if m > 12 {
			year, m = year+1, 1
		}
		length := daysIn(year, m)
		mask := c.month(year, m, length)
		if !want {
			mask = ^mask
		}
		mask &= (1<<length - 1) << 1 &^ (1<<d - 1)
		if mask != 0 {
			return min(start+int64(bits.TrailingZeros32(mask)), limit+1)
		}
		start += int64(length)
	}
	return limit + 1
}

// at says whether the rule is in force at an instant, and until when that
// stays so at the least: an instant after it, and where the answer doesn't
// change up to limit, one that isn't before limit.
func (c *rule) at(t, limit int64) (in bool, until int64) {
	here := time.Unix(t, 0).In(c.zone)
	_, offset := here.Zone()
	if _, end := here.ZoneBounds(); !end.IsZero() {
		limit = min(limit, end.Unix())
	}
	in, until = c.wall(t+int64(offset), max(limit, t+1)+int64(offset))
	return in, until - int64(offset)
}

// wall is at for a clock on a wall that is never changed.
func (c *rule) wall(t, limit int64) (in bool, until int64) {
	date := t / day
	if t < date*day {
		date--
	}
	last := limit/day + 1
	clock := t - date*day
	switch {
	case c.to-c.from == day && c.matches(date): // whole days that join up
		until = c.next(date, last, false) * day
		return true, min(until, limit)
	case clock >= c.from && clock < c.to && c.matches(date):
		return true, min(date*day+c.to, limit)
	case clock < c.to-day && c.matches(date-1):
		return true, min((date-1)*day+c.to, limit)
	case clock >= c.from:
		date++
	}
	return false, min(c.next(date, last, true)*day+c.from, limit)
}
