package rollout

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestRuleJSON(t *testing.T) {
	for in, want := range map[string]string{ // want "": as it was written
		`{}`: "",
		`{"days":["mon","tue"],"from":"09:00","to":"16:00","zone":"Europe/Stockholm"}`:                        "",
		`{"days":["Mon","SUNDAY"],"months":["January","dec",2,"3"],"from":"00:00","to":"24:00","zone":"UTC"}`: `{"days":["mon","sun"],"months":["jan","dec","feb","mar"],"to":"24:00","zone":"UTC"}`,
		`{"monthDays":[25,"1:5","-5:-1","25:-1",-1]}`:                                                         "",
		`{"monthDays":["25","-1","3:3"]}`:                                                                     `{"monthDays":[25,-1,3]}`,
		`{"from":"22:00:30","to":"06:00","zone":""}`:                                                          `{"from":"22:00:30","to":"06:00"}`,
		`{"from":"09:00","to":"00:00","zone":"America/Argentina/Buenos_Aires"}`:                               `{"from":"09:00","zone":"America/Argentina/Buenos_Aires"}`,
		`{"zone":"Etc/GMT+5"}`: "",
	} {
		var r Rule
		if err := json.Unmarshal([]byte(in), &r); err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		r.validate(func(field, format string, _ ...any) { t.Errorf("%s: %s: %s", in, field, format) })
		if want == "" {
			want = in
		}
		if got, err := json.Marshal(r); err != nil || string(got) != want {
			t.Errorf("%s came back as %s, %v, want %s", in, got, err, want)
		}
	}
}

func TestRuleJSONRefused(t *testing.T) {
	for in, want := range map[string]string{
		`{"days":["moon"]}`:            "want mon, tue",
		`{"days":[1]}`:                 "cannot unmarshal number",
		`{"days":[""]}`:                "want mon, tue",
		`{"months":[0]}`:               "1 to 12",
		`{"months":[13]}`:              "1 to 12",
		`{"months":["j"]}`:             "1 to 12",
		`{"months":[null]}`:            "1 to 12",
		`{"monthDays":[0]}`:            "0 isn't a day of a month",
		`{"monthDays":[32]}`:           "32 isn't a day of a month",
		`{"monthDays":["1:-32"]}`:      "-32 isn't a day of a month",
		`{"monthDays":["5:1"]}`:        "the earlier day comes first",
		`{"monthDays":["-1:-5"]}`:      "the earlier day comes first",
		`{"monthDays":["-2:3"]}`:       "two ranges, such as -2:-1 and 1:3",
		`{"monthDays":["1:2:3"]}`:      "want 25",
		`{"monthDays":[1.5]}`:          "want 25",
		`{"monthDays":["last"]}`:       "-1 is the last day",
		`{"monthDays":[null]}`:         "want 25",
		`{"from":"9:00"}`:              "such as 09:00",
		`{"from":"24:01"}`:             "such as 09:00",
		`{"from":"09:60"}`:             "such as 09:00",
		`{"from":"09.00"}`:             "such as 09:00",
		`{"from":"09:00:60"}`:          "such as 09:00",
		`{"from":"+9:00"}`:             "such as 09:00",
		`{"to":""}`:                    "such as 09:00",
		`{"zone":"Local"}`:             "depends on the machine",
		`{"zone":"localtime"}`:         "depends on the machine",
		`{"zone":"CEST"}`:              "isn't a known time zone",
		`{"zone":"Europe/Atlantis"}`:   "isn't a known time zone",
		`{"zone":"../../etc/passwd"}`:  "isn't a time zone",
		`{"zone":"/etc/localtime"}`:    "isn't a time zone",
		`{"zone":"right/Europe/Oslo"}`: "isn't a time zone",
	} {
		var r Rule
		if err := json.Unmarshal([]byte(in), &r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", in, err, want)
		}
	}
}

func TestRuleValidate(t *testing.T) {
	hour := TimeOfDay(time.Hour)
	for _, tt := range []struct {
		rule Rule
		want []string // the faulty fields
	}{
		{Rule{}, nil},
		{Rule{From: 22 * hour, To: 6 * hour}, nil},
		{Rule{From: 22 * hour}, nil},
		{Rule{To: 24 * hour}, nil},
		{Rule{Months: []Month{"feb"}, MonthDays: []MonthDays{{29, 29}}}, nil},
		{Rule{Months: []Month{"feb"}, MonthDays: []MonthDays{{-29, -29}}}, nil},
		{Rule{Months: []Month{"feb", "mar"}, MonthDays: []MonthDays{{31, -1}}}, nil},
		{Rule{Months: []Month{"feb"}, MonthDays: []MonthDays{{30, 30}}}, []string{"monthDays"}},
		{Rule{Months: []Month{"feb"}, MonthDays: []MonthDays{{-31, -30}}}, []string{"monthDays"}},
		{Rule{Months: []Month{"apr", "jun", "sep", "nov"}, MonthDays: []MonthDays{{31, 31}}}, []string{"monthDays"}},
		{Rule{MonthDays: []MonthDays{{30, -5}}}, []string{"monthDays"}},
		{Rule{From: 9 * hour, To: 9 * hour}, []string{"to"}},
		{Rule{From: 24 * hour}, []string{"from"}},
		{Rule{To: 25 * hour}, []string{"to"}},
		{Rule{From: 1, To: -1}, []string{"from", "to"}},
		{Rule{Days: []Weekday{"mon", ""}, Months: []Month{"jan", "May"}, MonthDays: []MonthDays{{}}, Zone: "Local"}, []string{"days[1]", "months[1]", "monthDays[0]", "zone"}},
		{Rule{Days: slices.Repeat([]Weekday{"mon"}, 32)}, []string{"days"}},
	} {
		var got []string
		tt.rule.validate(func(field, _ string, _ ...any) { got = append(got, field) })
		if !slices.Equal(got, tt.want) {
			t.Errorf("%+v: faults in %q, want %q", tt.rule, got, tt.want)
		}
	}
}

// TestRuleDates compares the search through months with looking at each date.
func TestRuleDates(t *testing.T) {
	rules := []Rule{
		{},
		{Days: []Weekday{"sat"}},
		{Days: []Weekday{"sun", "fri"}, Months: []Month{"feb", "jul"}},
		{MonthDays: []MonthDays{{-31, -29}, {15, 15}}},
		{Days: []Weekday{"mon"}, MonthDays: []MonthDays{{-7, -1}}},
		{Months: []Month{"feb"}, MonthDays: []MonthDays{{29, -1}}},
		{MonthDays: []MonthDays{{25, -3}}},
	}
	first := int64(time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC).Unix() / day)
	const length = 3000
	for i := range rules {
		c, err := compile(&rules[i])
		if err != nil {
			t.Fatal(err)
		}
		next := map[bool]int64{true: first + length + 1, false: first + length + 1}
		for date := first + length; date >= first; date-- {
			year, m, d := time.Unix(date*day, 0).UTC().Date()
			want := oracleDate(&rules[i], year, m, d)
			if got := c.matches(date); got != want {
				t.Fatalf("%+v: %d-%02d-%02d is %v, want %v", rules[i], year, m, d, got, want)
			}
			next[want] = date
			for _, wanted := range []bool{true, false} {
				if got := c.next(date, first+length, wanted); got != next[wanted] {
					t.Fatalf("%+v: the next date from %d-%02d-%02d on that is %v is %d days away, want %d", rules[i], year, m, d, wanted, got-date, next[wanted]-date)
				}
			}
		}
	}
}

func FuzzRule(f *testing.F) {
	for _, s := range []string{
		`{"days":["mon","Sunday"],"from":"22:00","to":"06:00","zone":"Europe/Stockholm"}`,
		`{"months":["jan",2,"12"],"monthDays":[25,"1:5","-5:-1","25:-1"]}`,
		`{"from":"00:00:01","to":"24:00","zone":"Australia/Lord_Howe"}`,
		`{"zone":"Local"}`, `{"monthDays":["-0"]}`, `{"days":[null],"months":[null],"monthDays":[null],"from":null,"zone":null}`,
	} {
		f.Add([]byte(s), int64(1_800_000_000))
	}
	f.Fuzz(func(t *testing.T, in []byte, sec int64) {
		var r Rule
		if json.Unmarshal(in, &r) != nil {
			return
		}
		valid := true
		r.validate(func(string, string, ...any) { valid = false })
		if !valid {
			return
		}
		b, err := json.Marshal(r)
		var back Rule
		if err != nil || json.Unmarshal(b, &back) != nil {
			t.Fatalf("%s doesn't come back: %v", b, err)
		}
		if again, err := json.Marshal(back); err != nil || string(again) != string(b) {
			t.Fatalf("%s came back as %s", b, again)
		}
		at := time.Unix(sec%(1<<36), 0)
		s := newCalendar([]Rule{r}, nil).at(at)
		if open := oracleRule(&r, at); open != (s.why.Code == "") {
			t.Fatalf("%s at %v: %+v, and the wall says %v", b, at, s, open)
		}
		if !s.until.IsZero() && oracleRule(&r, s.until) == (s.why.Code == "") || !s.from.IsZero() && oracleRule(&r, s.from.Add(-1)) == (s.why.Code == "") {
			t.Fatalf("%s at %v: nothing changes at an end of %+v", b, at, s)
		}
	})
}

func FuzzTimeOfDay(f *testing.F) {
	for _, s := range []string{"09:00", "24:00", "24:00:00", "00:00:01", "9:00", "09-00", "09:00:00:00", "٠٩:٠٠"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		d, err := ParseTimeOfDay(in)
		if err != nil {
			return
		}
		if d < 0 || d > wholeDay || !strings.HasPrefix(in, d.String()) {
			t.Fatalf("%q is read as %s", in, d)
		}
		if back, err := ParseTimeOfDay(d.String()); err != nil || back != d {
			t.Fatalf("%q came back as %v, %v", in, back, err)
		}
	})
}
