package e2e

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// The nats command in a viewer's hands: it shows everything, and changes
// nothing. Its context is what `operator add` wrote.
func TestViewerLooksWithNATS(t *testing.T) {
	s := trusted(t)
	server := start(t, s.dir, "tsunamid", append([]string{"tsunamid", "--data", filepath.Join(s.dir, "data"), "--listen", s.address()}, s.guardedFlags()...)...)
	s.ready(server)
	const host = "web1.lon2.example.net"
	s.enroll(host)
	s.agent(host, "web", "")
	s.apply("flag.yaml", "kind: Variable\nname: flag\ntype: string\ninitial: \"on\"\nenact: file\n")
	s.access("operator", "add", "vera", "--role", "viewer", "--out", filepath.Join(s.dir, "vera.creds"), "--server", s.url, "--ca", s.trust.ca)
	flags := []string{"--context", "tsunami-vera"}
	vera := func(args ...string) result { return execute(t, s.dir, "nats", append(flags, args...)...) }

	watch := start(t, s.dir, "watch", append(append([]string{"nats"}, flags...), "kv", "watch", "tsunami")...)
	eventually(t, 30*time.Second, "the host is in the inventory", func() (bool, string) {
		r := vera("kv", "get", "tsunami_hosts", host, "--raw")
		return r.code == 0, r.String()
	})
	eventually(t, 30*time.Second, "nats kv watch shows what is there", func() (bool, string) {
		return strings.Contains(watch.output(), "variable.flag"), watch.output()
	})
	for _, look := range []struct {
		args  []string
		shows []string
	}{
		{[]string{"kv", "ls"}, []string{"tsunami", "tsunami_hosts"}},
		{[]string{"kv", "ls", "tsunami"}, []string{"variable.flag", "leader", "epoch"}},
		{[]string{"kv", "get", "tsunami", "variable.flag", "--raw"}, []string{`"initial":"on"`}},
		{[]string{"kv", "history", "tsunami", "variable.flag"}, []string{"variable.flag"}},
		{[]string{"stream", "ls", "--all"}, []string{subjects.Stream, subjects.HostsStream, subjects.AuditStream, subjects.EvidenceStream}},
		{[]string{"micro", "ls"}, []string{control.ServiceName}},
		{[]string{"micro", "info", control.ServiceName}, []string{"tsunami.api."}},
	} {
		r := vera(look.args...)
		for _, word := range look.shows {
			if r.code != 0 || !strings.Contains(r.stdout+r.stderr, word) {
				t.Errorf("nats %s: no %q: %s", strings.Join(look.args, " "), word, r)
			}
		}
	}

	before := vera("kv", "get", "tsunami", "variable.flag", "--raw").stdout
	for _, change := range [][]string{
		{"kv", "put", "tsunami", "variable.flag", "off"},
		{"kv", "del", "tsunami", "variable.flag", "--force"},
		{"kv", "put", "tsunami", "stop", "I may not"},
		{"kv", "put", "tsunami_hosts", host, "nonsense"},
		{"kv", "add", "another"},
		{"kv", "rm", "tsunami", "--force"},
		{"stream", "purge", subjects.EvidenceStream, "--force"},
		{"stream", "rm", subjects.AuditStream, "--force"},
	} {
		// It waits for an answer that doesn't come.
		if r := vera(append([]string{"--timeout", "2s"}, change...)...); r.code == 0 || !strings.Contains(strings.ToLower(r.String()), "permissions violation") {
			t.Errorf("nats %s isn't refused: %s", strings.Join(change, " "), r)
		}
	}
	if after := vera("kv", "get", "tsunami", "variable.flag", "--raw").stdout; after != before {
		t.Errorf("the variable was %q and is %q", before, after)
	}
	if r := vera("kv", "get", "tsunami", "stop"); r.code == 0 {
		t.Errorf("a viewer has pressed the red button: %s", r)
	}
}
