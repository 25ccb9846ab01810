package control

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tsunami-rollouts/tsunami/rollout"
)

// decoder fills structs from nodes, strictly. It goes by the json tags, so
// that a document means the same in a file and on the wire, and keeps where
// each field stood.
type decoder struct {
	faults []fault
	at     map[string]*node // by path
}

func (d *decoder) fail(n *node, path, format string, args ...any) {
	d.faults = append(d.faults, fault{n.at, path, fmt.Sprintf(format, args...)})
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// decode fills v, which can be set. ignored are names of fields that somebody
// else has read.
func (d *decoder) decode(n *node, path string, v reflect.Value, ignored ...string) {
	d.at[path] = n
	if n.kind == isNull {
		d.fail(n, path, "has no value: give it one, or leave the field out")
		return
	}
	if leaf(v) {
		d.leaf(n, path, v)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		d.decode(n, path, p.Elem())
		v.Set(p)
	case reflect.Struct:
		if n.kind != isMapping {
			d.fail(n, path, "is %s: want a mapping with the fields %s", describe(n), list(fieldNames(v.Type())))
			return
		}
		d.fields(n, path, v, ignored)
	case reflect.Slice:
		if n.kind != isSequence {
			want := "a list"
			if example := examples[v.Type().Elem()]; example != "" {
				want += ", such as [" + example + "]"
			}
			d.fail(n, path, "is %s: want %s", describe(n), want)
			return
		}
		s := reflect.MakeSlice(v.Type(), len(n.items), len(n.items))
		for i, item := range n.items {
			d.decode(item, path+"["+strconv.Itoa(i)+"]", s.Index(i))
		}
		v.Set(s)
	case reflect.Map:
		if n.kind != isMapping {
			d.fail(n, path, "is %s: want a mapping, such as {%s}", describe(n), example(v.Type()))
			return
		}
		d.entries(n, path, v)
	default:
		d.leaf(n, path, v)
	}
}

// example is an entry of a mapping.
func example(t reflect.Type) string {
	if t.Elem().Kind() == reflect.String {
		return "severity: page"
	}
	return `docker_version: "1.10.3"`
}

// entries fills a map from names to values.
func (d *decoder) entries(n *node, path string, v reflect.Value) {
	v.Set(reflect.MakeMapWithSize(v.Type(), len(n.keys)))
	for _, k := range n.keys {
		name, value := reflect.New(v.Type().Key()), reflect.New(v.Type().Elem())
		at := join(path, k.name)
		if u, ok := name.Interface().(encoding.TextUnmarshaler); !ok {
			name.Elem().SetString(k.name)
		} else if err := u.UnmarshalText([]byte(k.name)); err != nil {
			d.faults = append(d.faults, fault{k.at, at, err.Error()})
			continue
		}
		d.decode(k.value, at, value.Elem())
		v.SetMapIndex(name.Elem(), value.Elem())
	}
}

func (d *decoder) fields(n *node, path string, v reflect.Value, ignored []string) {
	for _, k := range n.keys {
		if slices.Contains(ignored, k.name) {
			continue
		}
		f, ok := field(v, k.name)
		if !ok {
			d.faults = append(d.faults, fault{k.at, join(path, k.name), unknown(v.Type(), k.name, ignored)})
			continue
		}
		d.decode(k.value, join(path, k.name), f)
	}
}

var (
	jsonUnmarshaler = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// leaf says whether v decodes itself from a scalar.
func leaf(v reflect.Value) bool {
	t := reflect.PointerTo(v.Type())
	return t.Implements(jsonUnmarshaler) || t.Implements(textUnmarshaler)
}

func (d *decoder) leaf(n *node, path string, v reflect.Value) {
	if !n.scalar() {
		d.fail(n, path, "is %s: want %s", describe(n), wants(v.Type()))
		return
	}
	text := n.kind == isText
	switch p := v.Addr().Interface().(type) {
	case *rollout.Value:
		d.value(n, path, p)
		return
	case *time.Time:
		t, err := time.Parse(time.RFC3339, n.text)
		if err != nil {
			d.fail(n, path, "%q isn't a time: want one such as 2026-12-01T09:00:00+01:00", shorten(n.text, 60))
			return
		}
		*p = t
		return
	case encoding.TextUnmarshaler:
		if !text {
			d.fail(n, path, "%s is %s: want %s", shorten(n.text, 60), n.kind, wants(v.Type()))
			return
		}
		if err := p.UnmarshalText([]byte(n.text)); err != nil {
			d.fail(n, path, "%s", named(err, path))
		}
		return
	case json.Unmarshaler: // which takes numbers too
		b := []byte(n.text)
		if text {
			b, _ = json.Marshal(n.text)
		}
		if err := p.UnmarshalJSON(b); err != nil {
			d.fail(n, path, "%v", err)
		}
		return
	}
	bad := func() { d.fail(n, path, "%s is %s: want %s", shorten(n.text, 60), n.kind, wants(v.Type())) }
	switch v.Kind() {
	case reflect.String:
		if !text {
			bad()
			return
		}
		v.SetString(n.text)
	case reflect.Int:
		i, err := strconv.ParseInt(n.text, 10, 32)
		if n.kind != isInteger || err != nil {
			bad()
			return
		}
		v.SetInt(i)
	case reflect.Float64:
		f, err := strconv.ParseFloat(n.text, 64)
		if n.kind != isInteger && n.kind != isNumber || err != nil || !json.Valid([]byte(n.text)) {
			bad()
			return
		}
		v.SetFloat(f)
	case reflect.Bool:
		if n.kind != isBoolean {
			bad()
			return
		}
		v.SetBool(n.text == "true")
	default:
		bad()
	}
}

// value reads a scalar of any type, as it is written: 0x1F, 1_000 and .5 are
// numbers to YAML and not to JSON, and nobody should have to know.
func (d *decoder) value(n *node, path string, v *rollout.Value) {
	var err error
	if n.kind == isText {
		*v, err = rollout.StringValue(n.text)
	} else if err = v.UnmarshalJSON([]byte(n.text)); err != nil {
		err = fmt.Errorf("%s isn't a plain number, true or false: write it so, or in quotes if it is text", shorten(n.text, 60))
	}
	if err != nil {
		d.fail(n, path, "%v", err)
	}
}

// named replaces what a name's own decoding calls it by the field.
func named(err error, path string) string {
	last := path[strings.LastIndexByte(path, '.')+1:]
	last, _, _ = strings.Cut(last, "[")
	if rest, ok := strings.CutPrefix(err.Error(), "this name "); ok {
		return last + " " + rest
	}
	return err.Error()
}

func describe(n *node) string {
	if n.scalar() {
		return string(n.kind) + " (" + shorten(n.text, 60) + ")"
	}
	return string(n.kind)
}

func wants(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[rollout.Value]():
		return "one value: text in quotes, a number, true or false"
	case reflect.TypeFor[rollout.Percent]():
		return "a percentage such as 30 or 30%"
	case reflect.TypeFor[rollout.Duration]():
		return "a duration such as 2w, 36h or 90s"
	case reflect.TypeFor[rollout.TimeOfDay]():
		return `a time of day in quotes, such as "09:00"`
	case reflect.TypeFor[rollout.Weekday]():
		return "a day of the week: mon, tue, wed, thu, fri, sat or sun"
	case reflect.TypeFor[rollout.Month]():
		return "a month: jan, feb, … dec, or 1 to 12"
	case reflect.TypeFor[rollout.MonthDays]():
		return `days of a month: 25, "1:5" or "-5:-1"`
	case reflect.TypeFor[time.Time]():
		return "a time such as 2026-12-01T09:00:00+01:00"
	}
	switch t.Kind() {
	case reflect.Int:
		return "a whole number"
	case reflect.Float64:
		return "a number"
	case reflect.Bool:
		return "true or false"
	}
	return "text: put it in quotes"
}

// examples are what a list of such things may hold.
var examples = map[reflect.Type]string{
	reflect.TypeFor[rollout.Value]():     `"1.10.3", "1.12.3"`,
	reflect.TypeFor[rollout.Limit]():     `{where: role == "web", percent: 30}`,
	reflect.TypeFor[rollout.Rule]():      `{days: [mon, tue, wed, thu], from: "09:00", to: "16:00", zone: Europe/Stockholm}`,
	reflect.TypeFor[rollout.Wave]():      `{percent: 10, hold: 1d}, {percent: 100}`,
	reflect.TypeFor[rollout.Point]():     `{at: 1d, percent: 5}, {at: 1w, percent: 100}`,
	reflect.TypeFor[rollout.Weekday]():   "mon, tue",
	reflect.TypeFor[rollout.Month]():     "mar, jun",
	reflect.TypeFor[rollout.MonthDays](): `25, "-5:-1"`,
	reflect.TypeFor[rollout.Host]():      "web1.example.net, web2.example.net",
	reflect.TypeFor[rollout.Word]():      "zone, rack",
}

func fieldName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	if name == "-" {
		return ""
	}
	return name
}

func field(v reflect.Value, name string) (reflect.Value, bool) {
	for i := range v.NumField() {
		if name != "" && fieldName(v.Type().Field(i)) == name && !service(v.Type(), name) {
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

// service says whether a field is the service's to write and not a person's.
func service(t reflect.Type, name string) bool { return ours[t].field == name && name != "" }

// ours are the fields that the service writes, and what to say to somebody who
// writes one down.
var ours = map[reflect.Type]struct{ field, problem string }{
	reflect.TypeFor[rollout.Variable](): {"value", "the value that the fleet is on isn't written by hand: leave it out, a rollout moves it"},
	reflect.TypeFor[rollout.Spec]():     {"rollback", "a rollback isn't written by hand: leave it out, `tsunamictl rollout rollback` makes one"},
	reflect.TypeFor[rollout.Pin]():      {"by", "who pins isn't written by hand: leave it out, it is who applies the document"},
}

func fieldNames(t reflect.Type, more ...string) []string {
	names := slices.Clone(more)
	for f := range t.Fields() {
		if name := fieldName(f); name != "" && !service(t, name) {
			names = append(names, name)
		}
	}
	return names
}

// unknown says what would be right instead of an unknown field.
func unknown(t reflect.Type, name string, others []string) string {
	if service(t, name) {
		return ours[t].problem
	}
	known := fieldNames(t, others...)
	if near := nearest(name, known); near != "" {
		return "there is no such field: did you mean " + near + "?"
	}
	return "there is no such field: the fields here are " + list(known)
}

func list(names []string) string { return strings.Join(names, ", ") }

// nearest finds the name that somebody may have meant: the same but for case
// and separators, or at most two (for short names, one) letters away.
func nearest(name string, known []string) string {
	best, least := "", 3
	if len(name) < 5 {
		least = 2
	}
	if len(name) > 64 {
		return ""
	}
	plain := func(s string) string { return strings.NewReplacer("_", "", "-", "").Replace(strings.ToLower(s)) }
	for _, k := range known {
		if d := distance(plain(name), plain(k)); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance is Levenshtein's, where swapping neighbours counts one.
func distance(a, b string) int {
	var before []int
	last := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
