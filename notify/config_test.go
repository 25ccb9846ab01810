package notify

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/rollout"
)

// write makes a file that is its owner's alone.
func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "secret", strings.Repeat("s", 32)+"\n")
	write(t, dir, "headers", "# for the gateway\nAuthorization: Bearer x:y\n\nX-Team: ops\n")
	write(t, dir, "slack-url", "https://hooks.example.net/services/T/B/x\n")
	file := write(t, dir, "notify.yaml", `
heldAfter: 10m
receivers:
  - name: oncall
    events: [aborted, stopped]
    rollouts: ["docker-*"]
    webhook: {url: https://hooks.example.net/tsunami, secretFile: secret, headersFile: headers}
  - name: chat
    format: slack
    webhook: {urlFile: slack-url, timeout: 2s, retryFor: 1h}
  - name: script
    exec: {command: [/usr/local/bin/page, oncall]}
`)
	c, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	if c.HeldAfter != rollout.Duration(10*time.Minute) || c.MaxAge != rollout.Duration(time.Hour) || len(c.Receivers) != 3 {
		t.Errorf("got %+v", c)
	}
	if w := c.Receivers[0].Webhook; w.Timeout != rollout.Duration(5*time.Second) || w.RetryFor != rollout.Duration(15*time.Minute) {
		t.Errorf("got %+v", w)
	}
	r, err := c.Receivers[0].Webhook.read()
	if err != nil || r.header.Get("Authorization") != "Bearer x:y" || r.header.Get("X-Team") != "ops" || len(r.secret) != 32 {
		t.Errorf("got %+v, %v", r, err)
	}
	if r, err := c.Receivers[1].Webhook.read(); err != nil || r.url != "https://hooks.example.net/services/T/B/x" {
		t.Errorf("got %+v, %v", r, err)
	}
	for _, w := range []struct {
		e    Event
		want bool
	}{
		{Event{Kind: Aborted, Rollout: "docker-1"}, true},
		{Event{Kind: Aborted, Rollout: "kernel-1"}, false},
		{Event{Kind: Started, Rollout: "docker-1"}, false},
		{Event{Kind: Stopped}, true}, // it is of every rollout
		{Event{Kind: Released}, false},
	} {
		if got := c.Receivers[0].wants(&w.e); got != w.want {
			t.Errorf("%s %s: %v", w.e.Kind, w.e.Rollout, got)
		}
	}
}

func TestLoadFaults(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "short", "word")
	write(t, dir, "bad-headers", "Authorization\n")
	write(t, dir, "bad-url", "ftp://secret.example.net/x")
	write(t, dir, "text.tmpl", `hello {{.What}}`)
	write(t, dir, "wrong.tmpl", `{{json .Nothing}}`)
	write(t, dir, "broken.tmpl", `{{json .What`)
	write(t, dir, "endless.tmpl", `{{range $i := 300000}}xxxxxxxxxx{{end}}`)
	public := write(t, dir, "public", strings.Repeat("s", 32))
	if err := os.Chmod(public, 0o644); err != nil {
		t.Fatal(err)
	}
	one := func(s string) string { return "receivers:\n  - name: a\n    " + s + "\n" }
	url := "webhook: {url: https://h.example.net/x"
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", ":1:1: the file is empty"},
		{"two", one(url+"}") + "---\nreceivers: []\n", "a second document"},
		{"no receivers", "maxAge: 1h\n", "receivers: 0 of them: want 1 to 50"},
		{"unknown field", one("webhok: {}"), ":3:5: receivers[0].webhok: there is no such field: did you mean webhook?"},
		{"unknown field inside", one("webhook: {urk: x}"), ":3:15: receivers[0].webhook.urk: there is no such field"},
		{"not a list", "receivers: x\n", "receivers: is text (x): want a list"},
		{"neither", one("events: [started]"), "has neither webhook nor exec"},
		{"both", one("exec: {command: [x]}\n    " + url + "}"), "make two receivers of them"},
		{"no name", "receivers: [{exec: {command: [x]}}]\n", "receivers[0].name: is missing"},
		{"bad name", "receivers: [{name: On Call, exec: {command: [x]}}]\n", `name "On Call" isn't allowed`},
		{"twice", "receivers: [{name: a, exec: {command: [x]}}, {name: a, exec: {command: [x]}}]\n", "there is another receiver a"},
		{"event", one("events: [abortd]\n    exec: {command: [x]}"), `:3:14: receivers[0].events[0]: "abortd" isn't an event: want some of started`},
		{"pattern", one("rollouts: [\"[\"]\n    exec: {command: [x]}"), "isn't a pattern of ids"},
		{"format", one("format: teams\n    exec: {command: [x]}"), "want json or slack"},
		{"format and template", one("format: slack\n    template: text.tmpl\n    exec: {command: [x]}"), "both given"},
		{"no command", one("exec: {command: []}"), "want the program and its arguments"},
		{"no url", one("webhook: {timeout: 1s}"), "webhook.url: is missing"},
		{"two urls", one(url + ", urlFile: x}"), "both given"},
		{"not a url", one("webhook: {url: hooks.example.net}"), "isn't a URL that can be posted to"},
		{"too long", one(url + ", timeout: 1h}"), "1h is too long: at most 10m"},
		{"a duration", one(url + ", timeout: 5}"), "want a duration"},
		{"secret isn't there", one(url + ", secretFile: none}"), "receiver a: secretFile: open"},
		{"secret is short", one(url + ", secretFile: short}"), "holds 4 bytes: want at least 16"},
		{"secret is public", one(url + ", secretFile: public}"), "chmod 600"},
		{"headers", one(url + ", headersFile: bad-headers}"), "line 1 isn't a header"},
		{"url in a file", one("webhook: {urlFile: bad-url}"), "isn't a URL that can be posted to"},
		{"ca", one(url + ", ca: short}"), "holds no certificate"},
		{"template isn't there", one("template: none.tmpl\n    " + url + "}"), "template: open"},
		{"template isn't one", one("template: broken.tmpl\n    " + url + "}"), "template:"},
		{"template names nothing", one("template: wrong.tmpl\n    " + url + "}"), "can't evaluate field Nothing"},
		{"template isn't JSON", one("template: text.tmpl\n    " + url + "}"), "isn't JSON: put texts in with {{json .What}}"},
		{"template is endless", one("template: endless.tmpl\n    exec: {command: [x]}"), "longer than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Load(write(t, dir, "notify.yaml", c.text))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v\nwant %s", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "secret.example.net") {
				t.Errorf("the secret URL is in the error: %v", err)
			}
		})
	}
	// For a program any text will do.
	if _, err := Load(write(t, dir, "notify.yaml", one("template: text.tmpl\n    exec: {command: [x]}"))); err != nil {
		t.Error(err)
	}
}

// hostile is an event of what anybody who may abort can write.
func hostile() Event {
	e := Example(Aborted, day)
	e.Why = "he said \"no\"\\ \u2028 {{.}} <!channel> & `rm -rf` </script> é"
	e.What += "\nand a line"
	return e
}

func TestFormats(t *testing.T) {
	dir := t.TempDir()
	own := write(t, dir, "own.tmpl", `{"said": {{json .Why}}, "next": {{json .Next}}, "all": {{json .}}}`)
	for _, r := range []*Receiver{{}, {Format: "json"}, {Format: "slack"}, {Template: own}} {
		r.Webhook = &Webhook{}
		if err := r.compile(); err != nil {
			t.Fatal(err)
		}
		body, err := r.render(hostile())
		if err != nil || !json.Valid(body) {
			t.Fatalf("%v: %s", err, body)
		}
		switch {
		case r.Format == "slack":
			var m struct {
				Text   string
				Blocks []struct {
					Type     string
					Text     struct{ Type, Text string }
					Elements []struct{ Type, Text string }
				}
			}
			if err := json.Unmarshal(body, &m); err != nil {
				t.Fatal(err)
			}
			if strings.ContainsAny(m.Text, "<>`") || !strings.Contains(m.Text, "&lt;!channel&gt; &amp; 'rm -rf'") || len(m.Blocks) != 6 {
				t.Errorf("got %s", body)
			}
			if b := m.Blocks[2].Text; b.Type != "mrkdwn" || b.Text != "Next: `tsunamictl rollout show docker-1-12-3`" {
				t.Errorf("got %+v", b)
			}
			if f := m.Blocks[5].Elements[0].Text; !strings.Contains(f, "failed 3") || !strings.Contains(f, "this is a test") {
				t.Errorf("got %s", f)
			}
		case r.Template != "":
			var m struct{ Said, Next string }
			if err := json.Unmarshal(body, &m); err != nil || m.Said != hostile().Why || m.Next != hostile().Next {
				t.Errorf("got %s, %v", body, err)
			}
		default:
			var e Event
			if err := json.Unmarshal(body, &e); err != nil || e.Why != hostile().Why {
				t.Errorf("got %s, %v", body, err)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("receivers: [{name: a, exec: {command: [x]}, events: [aborted]}]"))
	f.Add([]byte(`{"receivers": [{"name": "a", "webhook": {"url": "https://h/x", "timeout": "1s"}}], "heldAfter": "5m"}`))
	f.Add([]byte("receivers:\n- name: a\n  rollouts: ['[']\n  format: slack"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parse("f", data)
		if err != nil {
			return
		}
		for _, r := range c.Receivers {
			if r.Name == "" || (r.Webhook == nil) == (r.Exec == nil) {
				t.Errorf("taken: %+v", r)
			}
			r.wants(&Event{Kind: Aborted, Rollout: "docker"})
		}
	})
}
