package main

import (
	"bytes"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

// A shell isn't kept waiting by a broker that takes connections and says
// nothing.
func TestCompletionIsBounded(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	began := time.Now()
	var out, errs bytes.Buffer
	code := run(t.Context(), []string{"__complete", "--server", "nats://" + l.Addr().String(), "host", "show", ""}, strings.NewReader(""), &out, &errs)
	if d := time.Since(began); d > completionTime+800*time.Millisecond {
		t.Errorf("it took %s", d)
	}
	if code != exitDone || out.String() != ":4\n" {
		t.Errorf("code %d, %q, %q", code, &out, &errs)
	}
}

// Every command with arguments in its usage line completes them.
func TestEveryArgumentHasACompletion(t *testing.T) {
	seen := 0
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		for _, name := range argumentNames(cmd) {
			if seen++; cmd.ValidArgsFunction == nil {
				t.Errorf("%s has no completion of %s", cmd.CommandPath(), name)
			}
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(new(app).root())
	if seen < 15 {
		t.Errorf("only %d arguments were seen", seen)
	}
	for use, want := range map[string]string{
		"x": "", "get KIND [NAME]": "KIND NAME", "plan (ROLLOUT | -f FILE)": "ROLLOUT", "pin HOST VARIABLE VALUE --why WHY": "HOST VARIABLE VALUE",
	} {
		if got := strings.Join(argumentNames(&cobra.Command{Use: use}), " "); got != want {
			t.Errorf("%s: %s, want %s", use, got, want)
		}
	}
}
