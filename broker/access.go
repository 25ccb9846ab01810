package broker

import (
	"fmt"
	"slices"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"

	"github.com/tsunami-rollouts/tsunami/access"
)

// trust makes a server let in whom the accounts know, and nobody else.
func trust(o *server.Options, a *access.Server) error {
	operator, err := jwt.DecodeOperatorClaims(a.Operator)
	if err != nil {
		return fmt.Errorf("the operator's JWT: %w", err)
	}
	accounts := &server.MemAccResolver{}
	for _, token := range slices.Concat([]string{a.System}, a.Accounts) {
		claims, err := issuedBy(operator, token)
		if err != nil {
			return err
		}
		if err := accounts.Store(claims.Subject, token); err != nil {
			return err
		}
	}
	o.TrustedOperators = []*jwt.OperatorClaims{operator}
	o.SystemAccount = operator.SystemAccount
	o.AccountResolver = accounts
	return nil
}

// issuedBy reads an account that the operator has issued.
func issuedBy(operator *jwt.OperatorClaims, token string) (*jwt.AccountClaims, error) {
	claims, err := jwt.DecodeAccountClaims(token)
	if err != nil {
		return nil, fmt.Errorf("an account's JWT: %w", err)
	}
	if !operator.DidSign(claims) {
		return nil, fmt.Errorf("the JWT of account %s isn't issued by the operator", claims.Name)
	}
	return claims, nil
}

// SetAccess takes changed accounts: what identities may do changes at once, and
// those that were revoked are disconnected. It returns an error, and changes
// nothing, for accounts that the operator of the start hasn't issued. A broker
// that was started without identities can't be given any.
func (b *Broker) SetAccess(a *access.Server) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.options.Access == nil {
		return fmt.Errorf("the broker runs without identities")
	}
	operator, err := jwt.DecodeOperatorClaims(b.options.Access.Operator)
	if err != nil {
		return fmt.Errorf("the operator's JWT: %w", err)
	}
	accounts := make([]*jwt.AccountClaims, len(a.Accounts))
	for i, token := range a.Accounts {
		if accounts[i], err = issuedBy(operator, token); err != nil {
			return err
		}
	}
	b.options.Access = a // for a restart
	if b.server == nil {
		return nil
	}
	for i, claims := range accounts {
		if err := b.server.AccountResolver().Store(claims.Subject, a.Accounts[i]); err != nil {
			return err
		}
		account, err := b.server.LookupAccount(claims.Subject)
		if err != nil {
			return fmt.Errorf("account %s: %w", claims.Name, err)
		}
		b.server.UpdateAccountClaims(account, claims)
	}
	return nil
}
