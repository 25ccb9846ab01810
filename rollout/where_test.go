package rollout

import (
	"runtime"
	"strings"
	"testing"
)

func TestWhere(t *testing.T) {
	labels := map[Word]Word{"zone": "lon2-a", "rack": "r12"}
	for _, c := range []struct {
		source string
		want   bool
	}{
		{``, true},
		{"  \n", true},
		{`role == "web"`, true},
		{`role != "database"`, true},
		{`labels.zone == "lon2-a" && labels["rack"] == "r12"`, true},
		{`labels.zone in ["lon2-a", "lon2-b"]`, true},
		{`labels.missing == ""`, true},
		{`"missing" in labels`, false},
		{`host == "web1.lon2"`, true},
		{`host startsWith "web" and not (role == "db")`, true},
		{`host matches "^web[0-9]+\\."`, true},
		{`int(split(split(host, ".")[0], "web")[1]) % 2 == 1`, true},
		{`len(role) == 3`, true},
		{`upper(role) == "WEB"`, true},
		{`false`, false},
	} {
		w, err := ParseWhere(c.source)
		if err != nil {
			t.Errorf("%s: %v", c.source, err)
			continue
		}
		if got, err := w.Selects("web1.lon2", "web", labels); err != nil || got != c.want {
			t.Errorf("%s: %v, %v", c.source, got, err)
		}
	}
	w, err := ParseWhere(`labels.zone == ""`)
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := w.Selects("h", "r", nil); !ok || err != nil {
		t.Errorf("a host without labels: %v, %v", ok, err)
	}
}

func TestWhereRefuses(t *testing.T) {
	for _, c := range []struct{ source, says string }{
		{`rol == "web"`, "unknown name rol"},
		{`zone == "a"`, "unknown name zone"},
		{`role`, "bool"},
		{`labels`, "bool"},
		{`1 + 1`, "bool"},
		{`role == 1`, "mismatched types"},
		{`role ==`, "unexpected"},
		{`role == "a`, "literal not terminated"},
		{`host matches "("`, "missing closing"},
		// No clock, no loops over hosts' data, no way out of the expression.
		{`now().Year() > 2000`, "unknown name now"},
		{`date("2026-01-01") == date("2026-01-01")`, "unknown name date"},
		{`duration("1h") == duration("1h")`, "unknown name duration"},
		{`all(1..10, true)`, "all() loops"},
		{`len(filter(1..10, true)) > 0`, "filter() loops"},
		{`repeat("a", 1000000) == ""`, "unknown name repeat"},
		{`fromJSON("1") == 1`, "unknown name fromJSON"},
		{`get(labels, "zone") == "a"`, "unknown name get"},
		{`env("PATH") != ""`, "unknown name env"},
		{`os.Exit(1)`, "unknown name os"},
		{`$env.PATH != ""`, "PATH"},
		{`role.String() == ""`, "String"},
		{`let x = 1..1000; all(x, all(x, all(x, all(x, true))))`, "all() loops"},
		{`[1, 2] | any(# > 1)`, "any() loops"},
		{`sum(1..10, # * 2) > 1 || true`, "sum"},
		{strings.Repeat("!", 4000) + "true", ""},
		{`role == "` + strings.Repeat("x", 4096) + `"`, "at most 4096"},
		{`true` + strings.Repeat(` && role == ""`, 150), "exceeds maximum allowed nodes"},
	} {
		_, err := ParseWhere(c.source)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%.60q: %v, want an error that says %q", c.source, err, c.says)
		}
	}
}

// What compiles and can't be evaluated for a host doesn't select it, and says
// so; it never panics.
func TestWhereErrorsSelectNobody(t *testing.T) {
	for _, source := range []string{
		`int(role) > 1`, `true ? 1 : "x"`, `role == "web" ? 1 : true`, `$env`, `[role, 1][0]`, `labels.zone ?? true`, `split(role, ".")[7] == ""`,
		`host matches role + "("`, `1 % (len(role) - 3) == 0`, `len(1..1000000000) > 0`, `len(1..len(role) * 100000) > 0`,
	} {
		w, err := ParseWhere(source)
		if err != nil {
			t.Errorf("%s doesn't compile: %v", source, err)
			continue
		}
		if ok, err := w.Selects("web1", "web", nil); ok || err == nil {
			t.Errorf("%s: %v, %v, want an error", source, ok, err)
		} else if !strings.Contains(err.Error(), "web1") {
			t.Errorf("%s: the error names no host: %v", source, err)
		}
	}
}

// The most expensive expressions that are allowed allocate little a host, so
// that one can't hold the scheduler up: what they can do is copy.
func TestWhereCostIsBounded(t *testing.T) {
	for _, source := range []string{
		`len(1..9000 + len(role)) > 0` + strings.Repeat(` && len(1..9000 + len(role)) > 0`, 30),
		strings.Repeat("(", 2000) + "true" + strings.Repeat(")", 2000),
		`host matches "(a*)*(a*)*(a*)*(a*)*$"`,
		`9999999999 in 1..9000`,
		`len(` + strings.Repeat("host + ", 240) + `host) > 0`,
	} {
		w, err := ParseWhere(source)
		if err != nil {
			t.Fatalf("%.40s: %v", source, err)
		}
		host := Host(strings.Repeat("a", 253))
		const hosts = 20
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range hosts {
			_, _ = w.Selects(host, "web", nil) // an exhausted budget is fine here
		}
		runtime.ReadMemStats(&after)
		if each := (after.TotalAlloc - before.TotalAlloc) / hosts; each > 16<<20 {
			t.Errorf("%.40s allocates %d bytes a host", source, each)
		}
	}
}
