package access

import "time"

// Revoked says whether a key's identities that were issued at this time are
// revoked; at the zero time, whether any is.
func (a *Authority) Revoked(key string, issued time.Time) bool {
	if issued.IsZero() {
		_, revoked := a.account.Revocations[key]
		return revoked
	}
	return a.account.Revocations.IsRevoked(key, issued)
}
