package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// buildDeb makes a Debian package with one file in it, and returns its path.
func buildDeb(t *testing.T, dir, name, version string) string {
	t.Helper()
	tree := filepath.Join(dir, name+"-"+version)
	write(t, filepath.Join(tree, "DEBIAN", "control"), 0o644, fmt.Sprintf(`Package: %s
Version: %s
Architecture: all
Maintainer: The end-to-end tests <e2e@example.net>
Description: a service to upgrade
 It does nothing but have a version.
`, name, version))
	write(t, filepath.Join(tree, "usr", "share", name, "version"), 0o644, version+"\n")
	deb := filepath.Join(dir, fmt.Sprintf("%s_%s_all.deb", name, version))
	if r := execute(t, dir, "dpkg-deb", "--root-owner-group", "-Zgzip", "--build", tree, deb); r.code != 0 {
		t.Fatalf("dpkg-deb: %s", r)
	}
	return deb
}

// dpkgRoot is one machine's package database.
type dpkgRoot string

// newRoot makes an empty one.
func newRoot(t *testing.T, dir string) dpkgRoot {
	t.Helper()
	write(t, filepath.Join(dir, "var", "lib", "dpkg", "status"), 0o644, "")
	for _, d := range []string{"info", "updates"} {
		if err := os.MkdirAll(filepath.Join(dir, "var", "lib", "dpkg", d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dpkgRoot(dir)
}

// install installs a package without anybody's help: what the machine had
// before the test.
func (r dpkgRoot) install(t *testing.T, deb string) {
	t.Helper()
	if res := execute(t, string(r), "dpkg", "--root="+string(r), "--force-not-root", "--log=/dev/null", "--install", deb); res.code != 0 {
		t.Fatalf("dpkg --install: %s", res)
	}
}

// installed is what dpkg-query says of a package: its status and its version.
func (r dpkgRoot) installed(t *testing.T, name string) (status, version string) {
	t.Helper()
	res := execute(t, string(r), "dpkg-query", "--admindir="+filepath.Join(string(r), "var", "lib", "dpkg"), "-W", "-f", "${db:Status-Status} ${Version}", name)
	if res.code != 0 {
		t.Fatalf("dpkg-query: %s", res)
	}
	if _, err := fmt.Sscan(res.stdout, &status, &version); err != nil {
		t.Fatalf("dpkg-query: %q: %v", res.stdout, err)
	}
	return status, version
}
