package access

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/subjects"
)

// Whatever somebody sends, it is either refused or what it says it is.

func FuzzParseCredentials(f *testing.F) {
	s := made(f)
	i := issued(f, s, Wanted{Name: "ada", Role: subjects.RoleOperator})
	f.Add(i.Credentials)
	f.Add([]byte("-----BEGIN NATS USER JWT-----\nx\n------END NATS USER JWT------\n"))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, file []byte) {
		c, err := ParseCredentials(file)
		if err == nil && (c.Key() != c.signer.Public() || c.JWT() == "") {
			t.Errorf("%q has key %q and JWT %q", file, c.Key(), c.JWT())
		}
	})
}

func FuzzIdentify(f *testing.F) {
	s := made(f)
	a := authority(f, s)
	i := issued(f, s, Wanted{Name: "ada", Role: subjects.RoleOperator})
	now := time.Now()
	f.Add(i.JWT)
	f.Add(issued(f, made(f), Wanted{Name: "ada", Role: subjects.RoleOperator}).JWT)
	f.Add("")
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, token string) {
		if id, err := a.Identify(token, now); err == nil && id.Key != i.Key {
			t.Errorf("%q names %+v", token, id)
		}
	})
}

func FuzzVerifyRequest(f *testing.F) {
	s := made(f)
	a := authority(f, s)
	i := issued(f, s, Wanted{Name: "ada", Role: subjects.RoleOperator})
	c, err := ParseCredentials(i.Credentials)
	if err != nil {
		f.Fatal(err)
	}
	const subject, body = "tsunami.api.ada.apply", "body"
	now := time.Now()
	h := subjects.Header{}
	c.SealRequest(subject, h, []byte(body), now)
	encoded, err := json.Marshal(h)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(subject, encoded, []byte(body))
	f.Add(subject, []byte(`{"Tsunami-Identity":[],"Tsunami-Seal":[""]}`), []byte(nil))
	f.Fuzz(func(t *testing.T, asked string, headers, sent []byte) {
		h := subjects.Header{}
		if json.Unmarshal(headers, &h) != nil || h == nil {
			return
		}
		if id, _, err := a.VerifyRequest(asked, h, sent, now); err == nil && (id.Key != i.Key || asked != subject || string(sent) != body) {
			t.Errorf("%s with %s and %q is taken as %+v's", asked, headers, sent, id)
		}
	})
}

func FuzzReadJoinToken(f *testing.F) {
	s := made(f)
	now := time.Now()
	text, err := s.JoinToken(JoinToken{Host: "h1", Uses: 1, Expires: now.Add(time.Hour)}, now)
	if err != nil {
		f.Fatal(err)
	}
	server, err := LoadServer(s.dir)
	if err != nil {
		f.Fatal(err)
	}
	desk, err := server.JoinDesk()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add("")
	f.Add("e30.e30")
	f.Fuzz(func(t *testing.T, text string) {
		if token, err := desk.Read(text); err == nil && (token.Host != "h1" || token.Uses != 1) {
			t.Errorf("%q is %+v", text, token)
		}
	})
}

func FuzzVerifyJoin(f *testing.F) {
	key, _, err := NewHostKey()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(SealJoin(key, "t1", "h1", "web"), "t1")
	f.Add("", "t1")
	f.Add("U A", "")
	f.Fuzz(func(t *testing.T, seal, token string) {
		if public, err := VerifyJoin(seal, token, "h1", "web"); err == nil && public == key.Public() && token != "t1" {
			t.Errorf("%q is taken for token %q", seal, token)
		}
	})
}

func FuzzParseKeyring(f *testing.F) {
	text, err := made(f).Trust()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("# nothing\n"))
	f.Add([]byte("UAAA\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := ParseKeyring(text)
		if err != nil {
			return
		}
		if len(k.Keys()) == 0 {
			t.Errorf("%q trusts nobody", text)
		}
		if err := k.Verify("$KV.tsunami.desired.h1", subjects.Header{subjects.HeaderSeal: {k.Keys()[0] + " AAAA"}}, text); err == nil {
			t.Errorf("%q verifies what nobody sealed", text)
		}
	})
}
