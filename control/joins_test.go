package control_test

import (
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// A join stands in the audit log as a use of the token, and as the host's.
func TestAuditOfAJoin(t *testing.T) {
	nc, js := start(t)
	then := time.Now().UTC().Add(-time.Hour).Truncate(time.Second)
	header := subjects.Header{subjects.HeaderActor: {"joiner"}, subjects.HeaderTime: {then.Format(time.RFC3339Nano)}}
	use := subjects.JoinUse{Token: "t0k3n", Host: "web1", Role: "web", Key: "UABC", Address: "192.0.2.1:5", Time: then}
	put(t, js, bus.Message{Subject: subjects.JoinUseSubject("t0k3n", 1), Header: header, Data: encode(t, use)})
	put(t, js, bus.Message{Subject: subjects.JoinHostSubject("web1"), Header: header, Data: encode(t, use)})
	put(t, js, bus.Message{Subject: subjects.JoinHostSubject("web2"), Header: header, Data: encode(t, use)}) // by hand
	put(t, js, bus.Message{Subject: subjects.JoinUseSubject("t0k3n", 2), Data: []byte("oops")})
	audited(t, js, 4)
	c := client(t, nc)
	all := read(t, c, control.AuditFilter{})
	if len(all) != 4 {
		t.Fatalf("%d records: %+v", len(all), all)
	}
	for i, want := range []string{
		"web1 t0k3n.1 web1 joined with token t0k3n as role web, from 192.0.2.1:5 joiner",
		"web1  its identity is the key UABC, by token t0k3n joiner",
	} {
		r := all[i]
		if got := string(r.Host) + " " + r.Name + " " + r.Reason + " " + r.Actor; got != want || r.Kind != "join" || !r.Time.Equal(then) {
			t.Errorf("record %d is %+v, want %q", i, r, want)
		}
	}
	for _, r := range all[2:] {
		if len(r.Reason) < 16 || r.Reason[:16] != "written by hand:" {
			t.Errorf("a record of nobody's is %+v", r)
		}
	}
	if of := read(t, c, control.AuditFilter{Host: "web1"}); len(of) != 1 || of[0].Sequence != all[1].Sequence {
		t.Errorf("the host's records are %+v", of)
	}
}
