package control

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/broker"
	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// brokered starts a broker; with a nil server one that checks nobody, as one
// does that was broken into.
func brokered(t *testing.T, a *access.Server) *broker.Broker {
	t.Helper()
	b, err := broker.Start(broker.Options{Dir: t.TempDir(), Unsynced: true, Access: a})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Shutdown)
	return b
}

func connected(t *testing.T, b *broker.Broker, creds, inbox string) *nats.Conn {
	t.Helper()
	nc, err := bus.Connect(bus.ConnectOptions{InProcess: b.InProcess(), Creds: creds, Inbox: inbox})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// part connects as a part of tsunamid.
func (i *identities) part(b *broker.Broker, server *access.Server, part string) *nats.Conn {
	i.t.Helper()
	file, err := server.Credentials(part)
	if err != nil {
		i.t.Fatal(err)
	}
	c, err := access.LoadCredentials(file)
	if err != nil {
		i.t.Fatal(err)
	}
	return connected(i.t, b, file, c.Inbox(false))
}

// person connects as somebody with a role.
func (i *identities) person(b *broker.Broker, name string, role subjects.Role) *Client {
	i.t.Helper()
	out, err := i.store.Issue(access.Wanted{Name: name, Role: role})
	if err != nil {
		i.t.Fatal(err)
	}
	c, err := access.ParseCredentials(out[0].Credentials)
	if err != nil {
		i.t.Fatal(err)
	}
	file := filepath.Join(i.t.TempDir(), name+".creds")
	if err := os.WriteFile(file, out[0].Credentials, 0o600); err != nil {
		i.t.Fatal(err)
	}
	client, err := NewClientWith(connected(i.t, b, file, c.Inbox(true)), c)
	if err != nil {
		i.t.Fatal(err)
	}
	return client
}

// guarded is a fleet with identities: its broker, and the service.
func guarded(t *testing.T, h Handler) (*identities, *broker.Broker, jetstream.JetStream) {
	t.Helper()
	i := newIdentities(t)
	server, err := access.LoadServer(i.dir)
	if err != nil {
		t.Fatal(err)
	}
	b := brokered(t, server)
	js, err := jetstream.New(i.part(b, server, access.PartSetup))
	if err != nil {
		t.Fatal(err)
	}
	if err := bus.Setup(soon(t), js, 1); err != nil {
		t.Fatal(err)
	}
	nc := i.part(b, server, access.PartScheduler)
	stop, err := Serve(t.Context(), nc, "1.2.3", h, Authorize(i.authority))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	if js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	return i, b, js
}

func refused(t *testing.T, err error, parts ...string) {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Code != Refused {
		t.Errorf("it wasn't refused: %v", err)
		return
	}
	for _, p := range parts {
		if !strings.Contains(e.Message, p) {
			t.Errorf("the refusal lacks %q: %s", p, e.Message)
		}
	}
}

// What the broker doesn't allow is refused at once and in words, not timed out.
func TestWhatTheBrokerDenies(t *testing.T) {
	var asked []string
	i, b, js := guarded(t, func(_ context.Context, r Request) (any, error) {
		if r.Verb != Status {
			asked = append(asked, string(r.Actor)+" "+string(r.Verb))
		}
		return Empty{}, nil
	})
	if _, err := bus.Put(soon(t), js, bus.Message{Subject: subjects.KindRollout.Subject("r1"), Data: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	vera := i.person(b, "vera", subjects.RoleViewer)
	began := time.Now()
	refused(t, vera.Call(soon(t), Apply, ApplyRequest{}, nil), "vera is a viewer and may not ask for apply", "an operator or an admin may")
	_, err := vera.Stop(soon(t), "no")
	refused(t, err, "vera is a viewer and may not stop everything")
	_, err = vera.Abort(soon(t), "r1", "no")
	refused(t, err, "vera is a viewer and may not abort a rollout")
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("three refusals took %s", d)
	}
	if name, role := vera.Identity(); name != "vera" || role != subjects.RoleViewer {
		t.Errorf("she is %s, %s", name, role)
	}
	if err := vera.Call(soon(t), Status, nil, nil); err != nil {
		t.Errorf("reading: %v", err)
	}
	paul := i.person(b, "paul", subjects.RoleApprover)
	refused(t, paul.Call(soon(t), RolloutStart, StartRequest{}, nil), "paul is an approver and may not ask for rollout.start")
	ada := i.person(b, "ada", subjects.RoleOperator)
	for _, call := range []struct {
		client *Client
		verb   Verb
	}{{ada, Apply}, {ada, RolloutApprove}, {paul, RolloutApprove}} {
		if err := call.client.Call(soon(t), call.verb, Empty{}, nil); err != nil {
			t.Errorf("%s: %v", call.verb, err)
		}
	}
	if _, err := ada.Stop(soon(t), "incident"); err != nil {
		t.Errorf("an operator's stop: %v", err)
	}
	if got := strings.Join(asked, ", "); got != "ada apply, ada rollout.approve, paul rollout.approve" {
		t.Errorf("the scheduler was asked: %s", got)
	}
}

// A broker that was broken into sends what it likes as whom it likes. It can
// read, and change nothing.
func TestABrokerThatWasBrokenInto(t *testing.T) {
	i := newIdentities(t)
	b := brokered(t, nil)
	nc := connected(t, b, "", "")
	asked := make(chan Request, 100)
	stop, err := Serve(t.Context(), nc, "1.2.3", func(_ context.Context, r Request) (any, error) {
		asked <- r
		return Empty{}, nil
	}, Authorize(i.authority))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	evil := connected(t, b, "", "")
	ask := func(m *nats.Msg) *nats.Msg {
		t.Helper()
		answer, err := evil.RequestMsgWithContext(soon(t), m)
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	// It listens to what ada asks for.
	heard := make(chan *nats.Msg, 1)
	if _, err := evil.Subscribe("tsunami.api.ada.rollout.start", func(m *nats.Msg) { heard <- m }); err != nil {
		t.Fatal(err)
	}
	if err := evil.Flush(); err != nil {
		t.Fatal(err)
	}
	ada, err := NewClientWith(connected(t, b, "", ""), i.issue("ada", subjects.RoleOperator))
	if err != nil {
		t.Fatal(err)
	}
	if err := ada.Call(soon(t), RolloutStart, StartRequest{}, nil); err != nil {
		t.Fatal(err)
	}
	if r := <-asked; r.Actor != "ada" {
		t.Errorf("%s asked", r.Actor)
	}
	original := <-heard
	copied := func(subject string, change func(*nats.Msg)) *nats.Msg {
		m := nats.NewMsg(subject)
		m.Data = original.Data
		maps.Copy(m.Header, original.Header)
		if change != nil {
			change(m)
		}
		return m
	}
	for name, m := range map[string]*nats.Msg{
		"plain, as ada":    nats.NewMsg("tsunami.api.ada.rollout.start"),
		"replayed":         copied("tsunami.api.ada.rollout.start", nil),
		"with a new body":  copied("tsunami.api.ada.rollout.start", func(m *nats.Msg) { m.Data = []byte(`{"toText":"evil"}`) }),
		"with a new nonce": copied("tsunami.api.ada.rollout.start", func(m *nats.Msg) { m.Header.Set(subjects.HeaderNonce, "other") }),
		"with a new time":  copied("tsunami.api.ada.rollout.start", func(m *nats.Msg) { m.Header.Set(subjects.HeaderTime, time.Now().Format(time.RFC3339Nano)) }),
		"with two seals":   copied("tsunami.api.ada.rollout.start", func(m *nats.Msg) { m.Header.Add(subjects.HeaderSeal, "x y") }),
		"as another verb":  copied("tsunami.api.ada.rollout.cancel", nil),
		"as another":       copied("tsunami.api.bob.rollout.start", nil),
	} {
		if code := ask(m).Header.Get(micro.ErrorCodeHeader); code != string(Refused) {
			t.Errorf("%s: it was answered with code %q", name, code)
		}
	}
	bearer, err := i.store.Issue(access.Wanted{Name: "bea", Role: subjects.RoleOperator, Bearer: true})
	if err != nil {
		t.Fatal(err)
	}
	stolen := nats.NewMsg("tsunami.api.bea.apply")
	stolen.Header.Set(subjects.HeaderIdentity, bearer[0].JWT)
	stolen.Header.Set(subjects.HeaderSeal, bearer[0].Key+" AAAA")
	if code := ask(stolen).Header.Get(micro.ErrorCodeHeader); code != string(Refused) {
		t.Errorf("a bearer's token: it was answered with code %q", code)
	}
	// Looking is what a plain `nats req` is for.
	if answer := ask(nats.NewMsg("tsunami.api.ada.status")); answer.Header.Get(micro.ErrorCodeHeader) != "" {
		t.Errorf("looking: %v", answer.Header)
	}
	if r := <-asked; r.Verb != Status || len(asked) > 0 {
		t.Errorf("%s of %s was carried out", r.Verb, r.Actor)
	}
	if _, err := i.store.Revoke("ada", ""); err != nil {
		t.Fatal(err)
	}
	refused(t, ada.Call(soon(t), RolloutStart, StartRequest{}, nil), "ada is revoked")
}

// The log of a fleet with identities is verified, and says whose word it is.
func TestVerifyAndAuditALiveLog(t *testing.T) {
	i, b, js := guarded(t, func(context.Context, Request) (any, error) { return Empty{}, nil })
	server, err := access.LoadServer(i.dir)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := server.Signer()
	if err != nil {
		t.Fatal(err)
	}
	keys, err := server.Keyring()
	if err != nil {
		t.Fatal(err)
	}
	l := newLedger(t, signer)
	for range 70 { // more than the bucket keeps of a key
		l.tell("h1")
	}
	l.tell("h2")
	l.roll("r1")
	// What the bucket has and the log doesn't keep.
	l.write(subjects.KindProgress.Subject("r1"), subjects.Header{}, []byte("{}"), true)
	l.write(subjects.KindLeader.Subject(""), subjects.Header{}, []byte("{}"), false)
	for _, m := range l.bucket {
		seq, err := bus.Put(soon(t), js, bus.Message{Subject: m.Subject, Header: m.Header, Data: m.Data})
		if err != nil {
			t.Fatal(err)
		}
		// As the scheduler does, wait for a log that is far behind.
		for ctx := soon(t); seq%30 == 0; {
			if last, err := bus.LastSequence(ctx, js, subjects.AuditStream); err != nil {
				t.Fatal(err)
			} else if last >= seq {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	ada, mallory := i.person(b, "ada", subjects.RoleOperator), i.person(b, "mallory", subjects.RoleAdmin)
	if _, err := ada.Abort(soon(t), "r1", "users see errors"); err != nil {
		t.Fatal(err)
	}
	v, err := ada.Verify(soon(t), VerifyOptions{Trust: keys})
	if err != nil {
		t.Fatal(err)
	}
	if v.FindingsTotal != 0 || v.Records != 73 || v.Compared != 67 || v.Hosts != 2 || v.Seals != 72 || v.NeedNone != 1 {
		t.Errorf("%+v", v)
	}
	mjs, err := jetstream.New(mallory.Conn())
	if err != nil {
		t.Fatal(err)
	}
	forged := subjects.Header{subjects.HeaderActor: {"ada"}, subjects.HeaderTime: {time.Now().UTC().Format(time.RFC3339Nano)}}
	if _, err := bus.Put(soon(t), mjs, bus.Message{Subject: subjects.KindBlackout.Subject("b1"), Header: forged, Data: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	if v, err = ada.Verify(soon(t), VerifyOptions{Trust: keys}); err != nil {
		t.Fatal(err)
	}
	if v.FindingsTotal != 1 || v.Findings[0].Name != "b1" || v.Findings[0].Sequence != 74 || !strings.Contains(v.Findings[0].Problem, "bears no seal") {
		t.Errorf("%+v", v)
	}
	if v, err = ada.Verify(soon(t), VerifyOptions{Trust: keys, From: 75}); err != nil || v.FindingsTotal != 0 || v.Records != 0 {
		t.Errorf("beyond it: %+v, %v", v, err)
	}
	actors := map[string]AuditRecord{}
	for r, err := range ada.Audit(soon(t), AuditFilter{}) {
		if err != nil {
			t.Fatal(err)
		}
		actors[r.Kind] = r
	}
	if a := actors["abort"]; a.Actor != "ada (unproven)" || a.Reason != "users see errors" {
		t.Errorf("the abort is %+v", a)
	}
	if a := actors["blackout"]; a.Actor != "ada (unproven)" || !strings.HasPrefix(a.Reason, "an admin's direct write") {
		t.Errorf("the forged record is %+v", a)
	}
	if a := actors["desired"]; a.Actor != "ada" {
		t.Errorf("what the scheduler told is %+v", a)
	}
	plainly, err := NewClient(ada.Conn(), "ada")
	if err != nil {
		t.Fatal(err)
	}
	for r, err := range plainly.Audit(soon(t), AuditFilter{Kinds: []subjects.Kind{subjects.KindAbort}}) {
		if err != nil || r.Actor != "ada" {
			t.Errorf("without identities: %+v, %v", r, err)
		}
	}
}

// Two approvals by people other than the author are two people's, who proved to
// be who they are.
func TestApprovalsAreByOthersWhoProveIt(t *testing.T) {
	given := map[rollout.ID]int{}
	i, b, _ := guarded(t, func(_ context.Context, r Request) (any, error) {
		given[r.Actor]++
		return Empty{}, nil
	})
	ada, bob := i.person(b, "ada", subjects.RoleOperator), i.person(b, "bob", subjects.RoleApprover)
	request := RolloutRequest{ID: "r1"}
	for _, c := range []*Client{ada, bob} {
		if err := c.Call(soon(t), RolloutApprove, request, nil); err != nil {
			t.Fatal(err)
		}
	}
	// The author can't be a second person: the broker doesn't let ada ask as carol,
	// and no seal of hers says so.
	asCarol, err := NewClient(ada.Conn(), "carol")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(soon(t), 300*time.Millisecond)
	defer cancel()
	if err := asCarol.Call(ctx, RolloutApprove, request, nil); err == nil {
		t.Error("ada has approved as carol")
	}
	body, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	h := subjects.Header{}
	const subject = "tsunami.api.carol.rollout.approve"
	ada.credentials.SealRequest(subject, h, body, time.Now())
	_, err = (&gate{authority: i.authority}).admit(RolloutApprove, "carol", subject, h, body, time.Now())
	refused(t, err, "asked as carol and sealed by ada")
	if len(given) != 2 || given["ada"] != 1 || given["bob"] != 1 {
		t.Errorf("approvals came of %v", given)
	}
}
