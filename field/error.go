package field

import "fmt"

// Error is a fault in one field of a document.
type Error struct {
	Field   string `json:"field"` // as a path: limits[0].percent
	Problem string `json:"problem"`
}

func (e *Error) Error() string { return e.Field + ": " + e.Problem }

// Errorf makes an *Error.
func Errorf(field, format string, args ...any) error {
	return &Error{field, fmt.Sprintf(format, args...)}
}
