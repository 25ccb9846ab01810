package control

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/micro"
)

// asked is a request without a broker, which keeps its error answer.
type asked struct {
	micro.Request
	code string
	body []byte
}

func (a *asked) Data() []byte           { return nil }
func (a *asked) Headers() micro.Headers { return nil }
func (a *asked) Subject() string        { return "tsunami.api.alice.status" }
func (a *asked) Reply() string          { return "_INBOX.x" }

func (a *asked) Error(code, _ string, body []byte, _ ...micro.RespondOpt) error {
	a.code, a.body = code, body
	return nil
}

func TestAHandlerThatHangsIsAnsweredFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		defer close(release)
		began := time.Now()
		a := new(asked)
		(&gate{}).serve(t.Context(), nil, Status, a, func(context.Context, Request) (any, error) {
			<-release
			return nil, nil
		})
		if d := time.Since(began); d != RequestTime {
			t.Errorf("it was given up after %s", d)
		}
		var e Error
		if err := json.Unmarshal(a.body, &e); err != nil || a.code != string(Unavailable) || !strings.Contains(e.Message, "look before asking again") {
			t.Errorf("the answer is %s %s, %v", a.code, a.body, err)
		}
	})
}
