package rollout

import "github.com/tsunami-rollouts/tsunami/field"

// What documents are written with, by the names that this package's readers
// know them by.
type (
	Host       = field.Host
	Name       = field.Name
	ID         = field.ID
	Word       = field.Word
	Duration   = field.Duration
	Percent    = field.Percent
	FieldError = field.Error
)

// ParseHost is [field.ParseHost].
func ParseHost(s string) (Host, error) { return field.ParseHost(s) }

// ParseName is [field.ParseName].
func ParseName(s string) (Name, error) { return field.ParseName(s) }

// ParseID is [field.ParseID].
func ParseID(kind, s string) (ID, error) { return field.ParseID(kind, s) }

// ParseWord is [field.ParseWord].
func ParseWord(kind, s string) (Word, error) { return field.ParseWord(kind, s) }

// ParseDuration is [field.ParseDuration].
func ParseDuration(s string) (Duration, error) { return field.ParseDuration(s) }
