package hostagent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// replacement is a file that is written and synced under a temporary name
// beside the one that it will replace.
type replacement struct{ path, temp string }

// prepare writes the new contents. The temporary name is always the same, so
// that a killed agent leaves at most one behind, which the next one reuses.
func prepare(path string, data []byte, perm os.FileMode) (_ *replacement, err error) {
	dir, base := filepath.Split(path)
	r := &replacement{path: path, temp: filepath.Join(dir, "."+base+".tmp")}
	f, err := os.OpenFile(r.temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.discard())
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	return r, err
}

// commit puts the file in its place and makes that durable.
func (r *replacement) commit() error {
	if err := os.Rename(r.temp, r.path); err != nil {
		return errors.Join(err, r.discard())
	}
	dir, err := os.Open(filepath.Dir(r.path))
	if err != nil {
		return err
	}
	err = dir.Sync()
	return errors.Join(err, dir.Close())
}

func (r *replacement) discard() error {
	if err := os.Remove(r.temp); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// replaceFile puts new contents in a file's place: a reader sees the old or
// the new, never a part, after a power failure too.
func replaceFile(path string, data []byte, perm os.FileMode) error {
	r, err := prepare(path, data, perm)
	if err != nil {
		return err
	}
	return r.commit()
}

func readBounded(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > most {
		return nil, fmt.Errorf("%s: more than %d bytes", path, most)
	}
	return data, nil
}

// outlet is a file in which other programs read the desired state.
type outlet struct {
	path   string
	encode func(rollout.Document) ([]byte, error)
}

func (c *Config) outlets() []outlet {
	all := []outlet{{filepath.Join(c.State, desiredFile), flatJSON}}
	if c.Facts != "" {
		all = append(all, outlet{c.Facts, flatJSON})
	}
	if c.Env != "" {
		all = append(all, outlet{c.Env, envLines})
	}
	return all
}

// writeOutlets makes the files say what the document says. A file that does
// already isn't written.
func writeOutlets(all []outlet, values rollout.Document) error {
	for _, o := range all {
		data, err := o.encode(values)
		if err != nil {
			return fmt.Errorf("encoding %s: %w", o.path, err)
		}
		if old, err := readBounded(o.path, int64(len(data))); err == nil && bytes.Equal(old, data) {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(o.path), 0o755); err != nil {
			return err
		}
		if err := replaceFile(o.path, data, 0o644); err != nil {
			return fmt.Errorf("writing %s: %w", o.path, err)
		}
	}
	return nil
}

func flatJSON(values rollout.Document) ([]byte, error) {
	if values == nil {
		values = rollout.Document{}
	}
	b, err := subjects.Encode(values)
	return append(b, '\n'), err
}

// envLines writes NAME="value" lines. Within double quotes a POSIX shell and
// systemd agree on everything: a backslash before one of the four characters
// that mean something there. Values have no control characters, so no line
// breaks either.
func envLines(values rollout.Document) ([]byte, error) {
	quote := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "`", "\\`", `$`, `\$`)
	var b bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(values)) {
		fmt.Fprintf(&b, "%s=\"%s\"\n", name, quote.Replace(values[name].Text()))
	}
	return b.Bytes(), nil
}
