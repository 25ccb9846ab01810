package control_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
)

func TestEveryVerbReachesItsHandlerWithTheActorOfItsSubject(t *testing.T) {
	nc, _ := start(t)
	serve(t, nc, func(_ context.Context, r control.Request) (any, error) {
		return map[string]string{"actor": string(r.Actor), "verb": string(r.Verb), "body": string(r.Body)}, nil
	})
	c := client(t, nc)
	for _, verb := range control.Verbs {
		var got map[string]string
		if err := c.Call(within(t), verb, control.HostRequest{Host: "h"}, &got); err != nil {
			t.Fatalf("%s: %v", verb, err)
		}
		if got["actor"] != "alice" || got["verb"] != string(verb) || got["body"] != `{"host":"h"}` {
			t.Errorf("%s: the handler got %v", verb, got)
		}
	}
}

func TestTheServiceIsSeenByTheNATSTools(t *testing.T) {
	nc, _ := start(t)
	serve(t, nc, func(context.Context, control.Request) (any, error) { return nil, nil })
	m, err := nc.RequestWithContext(within(t), "$SRV.INFO."+control.ServiceName, nil)
	if err != nil {
		t.Fatal(err)
	}
	var info micro.Info
	if err := json.Unmarshal(m.Data, &info); err != nil {
		t.Fatal(err)
	}
	if info.Name != "tsunami" || info.Version != "1.2.3" || len(info.Endpoints) != len(control.Verbs) {
		t.Errorf("info is %s", m.Data)
	}
}

func TestErrorsKeepTheirCodeAndFaults(t *testing.T) {
	nc, _ := start(t)
	field := &rollout.FieldError{Field: "limits[0].percent", Problem: "is odd"}
	for _, c := range []struct {
		name   string
		err    error
		code   control.Code
		text   string
		faults int
	}{
		{"refused", fmt.Errorf("resume: %w: it runs", rollout.ErrRefused), control.Refused, "it runs", 0},
		{"not found", fmt.Errorf("host x: %w", rollout.ErrNotFound), control.NotFound, "host x", 0},
		{"field", field, control.Usage, "limits[0].percent: is odd", 1},
		{"fields", errors.Join(field, field), control.Usage, "is odd", 2},
		{"documents", errors.Join(control.DocumentError(0, errors.Join(field, field)), control.DocumentError(3, control.Errorf(control.Refused, "not now"))), control.Refused, "not now", 3},
		{"document refused", control.DocumentError(2, fmt.Errorf("%w: busy", rollout.ErrRefused)), control.Refused, "busy", 1},
		{"own", fmt.Errorf("doing: %w", control.Errorf(control.Unavailable, "gone")), control.Unavailable, "doing: gone", 0},
		{"usage", control.Errorf(control.Usage, "what?"), control.Usage, "what?", 0},
		{"other", errors.New("disk\nfull"), control.Failed, "disk\nfull", 0},
		{"long", errors.New(strings.Repeat("x", 3<<20)), control.Failed, "xxx", 0},
		{"late", context.DeadlineExceeded, control.Unavailable, "deadline", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			stop, err := control.Serve(t.Context(), nc, "dev", func(context.Context, control.Request) (any, error) { return nil, c.err })
			if err != nil {
				t.Fatal(err)
			}
			defer stop()
			err = client(t, nc).Call(within(t), control.Status, nil, nil)
			e, ok := errors.AsType[*control.Error](err)
			if !ok || e.Code != c.code || !strings.Contains(e.Error(), c.text) || len(e.Faults) != c.faults {
				t.Errorf("got %#v (%v)", e, err)
			}
			if errors.Is(err, rollout.ErrRefused) != (c.code == control.Refused) || errors.Is(err, rollout.ErrNotFound) != (c.code == control.NotFound) {
				t.Error("the sentinels don't match")
			}
			if c.name == "documents" && e.Faults[2].Document != 3 {
				t.Errorf("the fault is of document %d", e.Faults[2].Document)
			}
		})
	}
}

func TestALargeAnswerComesInParts(t *testing.T) {
	nc, _ := start(t)
	plan := control.PlanView{ID: "x", Hosts: make([]control.PlanHost, 20_000)}
	for i := range plan.Hosts {
		plan.Hosts[i] = control.PlanHost{Host: rollout.Host(fmt.Sprintf("h%06d.example.net", i)), Role: "web", Position: i + 1}
	}
	serve(t, nc, func(context.Context, control.Request) (any, error) { return plan, nil })
	var got control.PlanView
	if err := client(t, nc).Call(within(t), control.RolloutPlan, nil, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Hosts) != len(plan.Hosts) || got.Hosts[19_999] != plan.Hosts[19_999] {
		t.Errorf("%d hosts came", len(got.Hosts))
	}
	// A client that doesn't know parts is told so instead of being sent half an answer.
	m, err := nc.RequestWithContext(within(t), "tsunami.api.alice.rollout.plan", nil)
	if err != nil {
		t.Fatal(err)
	}
	if m.Header.Get(micro.ErrorCodeHeader) != string(control.Failed) || !strings.Contains(m.Header.Get(micro.ErrorHeader), "ask for less") {
		t.Errorf("got %v", m.Header)
	}
}

func TestAnAnswerBeyondAllBoundsIsAnError(t *testing.T) {
	nc, _ := start(t)
	serve(t, nc, func(context.Context, control.Request) (any, error) {
		return strings.Repeat("x", control.MaxResponse), nil
	})
	wantError(t, client(t, nc).Call(within(t), control.Status, nil, nil), "ask for less")
}

func TestAnswersThatCannotBeEncodedOrRead(t *testing.T) {
	nc, _ := start(t)
	serve(t, nc, func(_ context.Context, r control.Request) (any, error) {
		if r.Verb == control.Status {
			return make(chan int), nil
		}
		return []int{1}, nil
	})
	c := client(t, nc)
	wantError(t, c.Call(within(t), control.Status, nil, nil), "encode the answer")
	wantError(t, c.Call(within(t), control.Why, nil, new(control.WhyView)), "older than tsunamid")
}

func TestRequestsAreBoundedAndStrict(t *testing.T) {
	nc, _ := start(t)
	serve(t, nc, func(_ context.Context, r control.Request) (any, error) {
		var q control.HostRequest
		return q, r.Decode(&q)
	})
	ask := func(subject string, body []byte) *nats.Msg {
		t.Helper()
		m, err := nc.RequestWithContext(within(t), subject, body)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	for _, c := range []struct{ name, subject, body, want string }{
		{"unknown field", "tsunami.api.alice.host.show", `{"hots":"x"}`, "unknown field"},
		{"two values", "tsunami.api.alice.host.show", `{} {}`, "more than one"},
		{"bad host", "tsunami.api.alice.host.show", `{"host":"A..b"}`, "host name"},
		{"not json", "tsunami.api.alice.host.show", `host: x`, "body"},
		{"bad actor", "tsunami.api.ALICE.host.show", `{}`, "operator name"},
		{"too large", "tsunami.api.alice.host.show", strings.Repeat(" ", control.MaxRequest+1), "at most"},
		{"deep", "tsunami.api.alice.host.show", strings.Repeat("[", 500_000), "body"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := ask(c.subject, []byte(c.body))
			if m.Header.Get(micro.ErrorCodeHeader) != string(control.Usage) || !strings.Contains(m.Header.Get(micro.ErrorHeader), c.want) {
				t.Errorf("got %v %s", m.Header, m.Data)
			}
		})
	}
	if m := ask("tsunami.api.alice.host.show", nil); m.Header.Get(micro.ErrorCodeHeader) != "" {
		t.Errorf("an empty request was refused: %v", m.Header)
	}
	wantError(t, client(t, nc).Call(within(t), control.Apply, strings.Repeat("x", control.MaxRequest), nil), "at most")
}

// A key api.<actor>.<verb> in the bucket is echoed where requests go.
func TestAnEchoIsNoRequest(t *testing.T) {
	nc, js := start(t)
	asked := make(chan control.Request, 10)
	serve(t, nc, func(_ context.Context, r control.Request) (any, error) { asked <- r; return nil, nil })
	put(t, js, bus.Message{Subject: "$KV.tsunami.api.mallory.status", Data: []byte("{}")})
	// Somebody who can publish with a reply subject can't pass an echo off either.
	m := nats.NewMsg("tsunami.api.mallory.status")
	m.Reply = nc.NewInbox()
	m.Header.Set("Nats-Stream", "KV_tsunami")
	sub, err := nc.SubscribeSync(m.Reply)
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.PublishMsg(m); err != nil {
		t.Fatal(err)
	}
	answer, err := sub.NextMsgWithContext(within(t))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(answer.Header.Get(micro.ErrorHeader), "isn't a request") {
		t.Errorf("got %v", answer.Header)
	}
	if err := client(t, nc).Call(within(t), control.Status, nil, nil); err != nil {
		t.Fatal(err)
	}
	if r := <-asked; r.Actor != "alice" {
		t.Errorf("a request of %s was handled", r.Actor)
	}
}

func TestNobodyAnswers(t *testing.T) {
	nc, _ := start(t)
	err := client(t, nc).Call(within(t), control.Status, nil, nil)
	wantError(t, err, "no scheduler answers", "is tsunamid running")
	if e, ok := errors.AsType[*control.Error](err); !ok || e.Code != control.Unavailable {
		t.Errorf("got %#v", err)
	}
	if _, err := control.NewClient(nc, "Not.Allowed"); err == nil {
		t.Error("an actor that can't be a subject token was taken")
	}
}

func TestASlowHandlerIsGivenUp(t *testing.T) {
	nc, _ := start(t)
	release := make(chan struct{})
	serve(t, nc, func(ctx context.Context, _ control.Request) (any, error) {
		<-release
		return nil, nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := client(t, nc).Call(ctx, control.Status, nil, nil)
	close(release)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestStoppingAnswersWhoIsWaiting(t *testing.T) {
	nc, _ := start(t)
	asked := make(chan struct{})
	stop, err := control.Serve(t.Context(), nc, "1.2.3", func(ctx context.Context, _ control.Request) (any, error) {
		close(asked)
		<-ctx.Done()
		return nil, ctx.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	c := client(t, nc)
	go func() { failed <- c.Call(within(t), control.Status, nil, nil) }()
	<-asked
	stop()
	stop()
	err = <-failed
	if e, ok := errors.AsType[*control.Error](err); !ok || e.Code != control.Unavailable {
		t.Errorf("got %v", err)
	}
	err = c.Call(within(t), control.Status, nil, nil)
	if e, ok := errors.AsType[*control.Error](err); !ok || e.Code != control.Unavailable {
		t.Errorf("got %v", err)
	}
}
