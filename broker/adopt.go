package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// everybody is the account of a server without identities.
const everybody = "$G"

// ErrOthers says that the streams in the directory are those of other accounts:
// they would neither be found nor missed.
var ErrOthers = errors.New("the streams in the data directory are another account's")

// adopt makes sure that the streams in the directory, if there are any, are those
// of the account that is about to be served, whose public key is "" without
// identities. Where they are from before there were identities, it gives them to
// the account if that is wanted.
func adopt(dir string, a *access.Server, wanted bool) error {
	ours := everybody
	if a != nil {
		claims, err := jwt.DecodeAccountClaims(a.Account(subjects.AccountCore))
		if err != nil {
			return fmt.Errorf("an account's JWT: %w", err)
		}
		ours = claims.Subject
	}
	stores := filepath.Join(dir, server.JetStreamStoreDir)
	accounts, err := os.ReadDir(stores)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	found := ""
	for _, each := range accounts {
		streams, err := os.ReadDir(filepath.Join(stores, each.Name(), "streams"))
		switch {
		case errors.Is(err, fs.ErrNotExist) || len(streams) == 0 && err == nil:
		case err != nil:
			return err
		case each.Name() == ours:
			return nil
		default:
			found = each.Name()
		}
	}
	switch {
	case found == "":
		return nil
	case found == everybody && wanted:
		return os.Rename(filepath.Join(stores, found), filepath.Join(stores, ours))
	case found == everybody:
		return fmt.Errorf("%w: they were written without identities: start once with --adopt, which takes them over", ErrOthers)
	case a == nil:
		return fmt.Errorf("%w: they were written with identities: start with --access, or on another directory", ErrOthers)
	}
	return fmt.Errorf("%w: they were written with identities, but those of another access directory", ErrOthers)
}
