package hostagent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// replaceFile puts new contents in a file's place: a reader sees the old or
// the new, never a part, after a power failure too. Everything happens within
// the file's directory, whatever others have put there: a link is replaced and
// never followed. The temporary name is always the same, so that a killed agent
// leaves at most one behind.
func replaceFile(path string, data []byte, perm os.FileMode) error {
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer root.Close() // what had to be synced is
	base := filepath.Base(path)
	temp := "." + base + ".tmp"
	if err := discard(root, temp); err != nil {
		return err
	}
	err = write(root, temp, data, perm)
	if err == nil {
		err = root.Rename(temp, base)
	}
	if err != nil {
		return errors.Join(err, discard(root, temp))
	}
	dir, err := root.Open(".")
	if err != nil {
		return err
	}
	err = dir.Sync()
	return errors.Join(err, dir.Close())
}

// write makes a file that isn't there yet, and syncs it.
func write(root *os.Root, name string, data []byte, perm os.FileMode) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func discard(root *os.Root, name string) error {
	if err := root.Remove(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// readBounded reads a file. One that lies outside its directory, by a link, is
// an error, and so is what isn't a file: a pipe would have no end.
func readBounded(path string, most int64) ([]byte, error) {
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer root.Close() // it was only read from
	f, err := root.OpenFile(filepath.Base(path), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close() // likewise
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s isn't a file", path)
	}
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
