package access

import "time"

// Revoked says whether a key's identities that were issued at this time are
// revoked; at the zero time, whether any is.
func (a *Authority) Revoked(key string, issued time.Time) bool {
	if issued.IsZero() {
		_, any := a.account.Revocations[key]
		return any
	}
	return a.account.IsRevoked(key, issued)
}
