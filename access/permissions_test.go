package access_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/tsunami-rollouts/tsunami/subjects"
)

var update = flag.Bool("access.update", false, "write docs/permissions.md")

// docs/permissions.md shows what the identities are issued with.
func TestPermissionsAreDocumented(t *testing.T) {
	var b strings.Builder
	b.WriteString(`# Permissions

What each role may do on the broker; whatever isn't here is denied. ` + "`{{name()}}`" + ` is the identity's own name and
` + "`{{subject()}}`" + ` its public key. The table is made from ` + "`subjects.PermissionsOf`" + `, with which identities are issued
(` + "`go test ./access -run Documented -access.update`" + ` writes it), and ` + "`TestMatrix`" + ` tries every identity against every
subject with a table of its own. Nobody may change, empty or delete a stream.

Permissions don't see on which subject an answer is asked for, so hosts and people have an account of their own,
` + "`fleet`" + `; the streams and the parts of tsunamid are in ` + "`tsunami`" + `. What is published in one isn't heard in the other, but
for what is listed under "What crosses". An answer comes back to the account that asked, where nothing is stored
(` + "`TestAnswersAreNotStored`" + `).
`)
	for _, role := range subjects.Roles {
		p := subjects.PermissionsOf(role)
		fmt.Fprintf(&b, "\n## %s\n\nIn account `%s`.\n\n| may | subject | for |\n|---|---|---|\n", role, role.Account())
		for _, each := range p.Publish {
			fmt.Fprintf(&b, "| publish | `%s` | %s |\n", each.Subject, each.Why)
		}
		for _, each := range p.Subscribe {
			fmt.Fprintf(&b, "| subscribe | `%s` | %s |\n", each.Subject, each.Why)
		}
		if p.Answers > 0 {
			fmt.Fprintf(&b, "| answer | a request's reply subject, %d messages within %s | answers to requests |\n", p.Answers, p.AnswerTime)
		}
	}
	b.WriteString("\n## What crosses\n\n| from | subject | to |\n|---|---|---|\n")
	for _, s := range subjects.Services {
		fmt.Fprintf(&b, "| fleet | `%s` | tsunami, and its answers back |\n", s.Subject)
	}
	for _, s := range subjects.Heard {
		fmt.Fprintf(&b, "| tsunami | `%s` | fleet |\n", s)
	}
	const file = "../docs/permissions.md"
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != b.String() {
		t.Error("docs/permissions.md doesn't show what identities are issued with: go test ./access -run Documented -access.update")
	}
}
