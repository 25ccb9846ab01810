package fleettest

import (
	"flag"
	"path/filepath"
	"strings"
	"testing"
)

var (
	update = flag.Bool("update", false, "write the traces of scripts anew")
	long   = flag.Bool("fleettest.long", false, "run scripts with more seeds, and those of testdata/long")
)

func TestScripts(t *testing.T) {
	patterns := []string{"testdata/*.txt"}
	if *long {
		patterns = append(patterns, "testdata/long/*.txt")
	}
	for _, pattern := range patterns {
		paths, err := filepath.Glob(pattern)
		if err != nil || len(paths) == 0 {
			t.Fatalf("no scripts match %s: %v", pattern, err)
		}
		for _, path := range paths {
			t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
				RunScript(t, path, ScriptOptions{Update: *update, Long: *long})
			})
		}
	}
}
