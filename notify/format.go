package notify

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"text/template"
	"time"

	"github.com/tsunami-rollouts/tsunami/subjects"
)

// maxBody bounds what a receiver is sent, in bytes.
const maxBody = 256 << 10

// functions are what templates may call beside text/template's own.
var functions = template.FuncMap{
	"json":   quote,
	"mrkdwn": mrkdwn,
	"join":   strings.Join,
}

// quote gives the JSON of anything. It leaves < > & as they are: people read it
// too.
func quote(v any) (string, error) {
	b, err := subjects.Encode(v)
	return string(b), err
}

// mrkdwn makes a text fit for a Slack message: what has a meaning there, such as
// <!channel>, is text again, and no part grows past what Slack takes.
func mrkdwn(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "`", "'").Replace(cut(s, 500))
}

// slack is a message with text, for lists and phones, and blocks.
const slack = `{
  "text": {{with .Why}}{{json (printf "%s: %s" (mrkdwn $.What) (mrkdwn .))}}{{else}}{{json (mrkdwn .What)}}{{end}},
  "blocks": [
    {"type": "section", "text": {"type": "mrkdwn", "text": {{json (printf "*%s*" (mrkdwn .What))}}}},
{{- with .Why}}
    {"type": "section", "text": {"type": "mrkdwn", "text": {{json (printf "> %s" (mrkdwn .))}}}},
{{- end}}
    {"type": "section", "text": {"type": "mrkdwn", "text": {{json (printf "Next: ` + "`%s`" + `" (mrkdwn .Next))}}}},
{{- range .Then}}
    {"type": "section", "text": {"type": "mrkdwn", "text": {{json (printf "Then perhaps: ` + "`%s`" + `" (mrkdwn .))}}}},
{{- end}}
    {"type": "context", "elements": [{"type": "mrkdwn", "text": {{json (mrkdwn .Footer)}}}]}
  ]
}
`

// Footer is a line for the end of a message: when, by whom, and how the hosts
// stand.
func (e Event) Footer() string {
	parts := []string{e.Time.UTC().Format("2006-01-02 15:04:05 UTC")}
	if e.Actor != "" {
		parts = append(parts, "by "+e.Actor)
	}
	if h := e.Hosts; h != nil {
		parts = append(parts, fmt.Sprintf("target %d, told %d, confirmed %d, failed %d", h.Target, h.Told, h.Confirmed, h.Failed))
	}
	if e.Test {
		parts = append(parts, "this is a test")
	}
	return strings.Join(parts, " · ")
}

// compile reads the template, if there is one, and tries it on an event of each
// kind.
func (r *Receiver) compile() error {
	text := ""
	switch {
	case r.Template != "":
		b, err := os.ReadFile(r.Template)
		if err != nil {
			return fmt.Errorf("template: %w", err)
		}
		text = string(b)
	case r.Format == formatSlack:
		text = slack
	default:
		return nil
	}
	t, err := template.New("template").Funcs(functions).Parse(text)
	if err != nil {
		return fmt.Errorf("template: %w", err)
	}
	r.body = t
	for _, k := range Kinds {
		body, err := r.render(Example(k, time.Unix(0, 0)))
		if err == nil && r.Webhook != nil && !json.Valid(body) {
			err = fmt.Errorf("template: what it makes of the event %s isn't JSON: put texts in with {{json .What}}", k)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// render makes what the receiver is sent.
func (r *Receiver) render(e Event) ([]byte, error) {
	if r.body == nil {
		return subjects.Encode(e)
	}
	var b bytes.Buffer
	if err := r.body.Execute(&limited{&b, maxBody}, e); err != nil {
		return nil, fmt.Errorf("template: %w", err)
	}
	return b.Bytes(), nil
}

// limited refuses more than so many bytes.
type limited struct {
	b    *bytes.Buffer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left < 0 {
		return 0, fmt.Errorf("what it makes is longer than %d bytes", maxBody)
	}
	return l.b.Write(p)
}
