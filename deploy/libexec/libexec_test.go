// Package libexec_test tries the enact and observe programs on real packages.
package libexec_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// deb builds a tiny package.
func deb(t *testing.T, dir, version string) {
	t.Helper()
	tree := filepath.Join(t.TempDir(), "tree")
	write(t, filepath.Join(tree, "DEBIAN/control"),
		"Package: helios\nVersion: "+version+"\nArchitecture: all\nMaintainer: Nobody <nobody@example.net>\nDescription: a test\n")
	write(t, filepath.Join(tree, "usr/share/helios/version"), version+"\n")
	out, err := exec.Command("dpkg-deb", "--root-owner-group", "-b", tree, filepath.Join(dir, "helios_"+version+"_all.deb")).CombinedOutput()
	if err != nil {
		t.Fatalf("dpkg-deb: %v: %s", err, out)
	}
}

func write(t *testing.T, path, data string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}

// host is a package database of its own.
type host struct {
	t          *testing.T
	root, debs string
}

func newHost(t *testing.T) *host {
	h := &host{t, t.TempDir(), t.TempDir()}
	deb(t, h.debs, "0.9.0")
	deb(t, h.debs, "0.9.1")
	return h
}

func (h *host) run(program string, args ...string) (stdout, stderr string, code int) {
	h.t.Helper()
	cmd := exec.CommandContext(h.t.Context(), "./"+program, args...)
	cmd.Env = append(os.Environ(), "TSUNAMI_DPKG_ROOT="+h.root, "TSUNAMI_DEB_DIR="+h.debs, "TSUNAMI_LOCK_TIMEOUT=20")
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if _, exit := errors.AsType[*exec.ExitError](err); err != nil && !exit {
		h.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func (h *host) enact(version string, code int, says string) {
	h.t.Helper()
	out, errs, got := h.run("enact-deb", "helios", version)
	if got != code || !strings.Contains(errs, says) {
		h.t.Fatalf("enact-deb helios %s exited with %d, want %d, and a message with %q:\n%s%s", version, got, code, says, out, errs)
	}
}

func (h *host) observe(want string) {
	h.t.Helper()
	if want != "" {
		want += "\n"
	}
	if out, errs, code := h.run("observe-deb", "helios"); out != want || code != 0 {
		h.t.Fatalf("observe-deb printed %q and exited with %d, want %q:\n%s", out, code, want, errs)
	}
}

func TestUpgradeAndDowngrade(t *testing.T) {
	h := newHost(t)
	h.observe("")
	h.enact("0.9.0", 0, "helios is at 0.9.0")
	h.observe("0.9.0")
	h.enact("0.9.1", 0, "helios is at 0.9.1")
	h.enact("0.9.1", 0, "already")
	h.observe("0.9.1")
	got, err := os.ReadFile(filepath.Join(h.root, "usr/share/helios/version"))
	if err != nil || string(got) != "0.9.1\n" {
		t.Fatalf("the package's file says %q, %v", got, err)
	}
	h.enact("0.9.0", 0, "helios is at 0.9.0")
	h.observe("0.9.0")
	h.enact("0.9.7", 1, "has no helios 0.9.7; it has: 0.9.0 0.9.1")
	h.observe("0.9.0")
}

// An agent, or the machine, may die while dpkg works.
func TestInterruptedInstallation(t *testing.T) {
	h := newHost(t)
	h.enact("0.9.1", 0, "")
	status := filepath.Join(h.root, "var/lib/dpkg/status")
	b, err := os.ReadFile(status)
	if err != nil {
		t.Fatal(err)
	}
	write(t, status, regexp.MustCompile("install ok installed").ReplaceAllString(string(b), "install ok unpacked"))
	h.observe("") // unpacked isn't installed
	h.enact("0.9.1", 0, "interrupted")
	h.observe("0.9.1")
}

func TestWaitsForTheLock(t *testing.T) {
	h := newHost(t)
	h.enact("0.9.0", 0, "")
	lock, err := os.OpenFile(filepath.Join(h.root, "var/lib/dpkg/lock-frontend"), os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		t.Fatal(err)
	}
	// dpkg's locks are of the process, not of the descriptor.
	if err := syscall.FcntlFlock(lock.Fd(), syscall.F_SETLK, &syscall.Flock_t{Type: syscall.F_WRLCK}); err != nil {
		t.Fatal(err)
	}
	release := time.AfterFunc(4*time.Second, // it takes a while to begin on a busy machine
		func() { lock.Close() })
	defer release.Stop()
	h.enact("0.9.1", 0, "another package manager is at work")
	h.observe("0.9.1")
}

func TestBadArguments(t *testing.T) {
	h := newHost(t)
	for _, args := range [][]string{{}, {"helios"}, {"helios", ""}, {"helios", "-1"}, {"helios", "1 2"}, {"--purge", "1"}, {"Helios", "1"}, {"helios", "$(id)"}, {"helios", "1", "2"}} {
		if _, errs, code := h.run("enact-deb", args...); code != 2 || !strings.HasPrefix(errs, "enact-deb: ") {
			t.Errorf("enact-deb %q exited with %d and says %q", args, code, errs)
		}
	}
	for _, args := range [][]string{{}, {"helios", "1"}, {"-x"}, {"a b"}} {
		if _, errs, code := h.run("observe-deb", args...); code != 2 || !strings.HasPrefix(errs, "observe-deb: ") {
			t.Errorf("observe-deb %q exited with %d and says %q", args, code, errs)
		}
	}
}
