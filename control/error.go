package control

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/tsunami-rollouts/tsunami/rollout"
)

// Code says what kind of failure an [Error] is. It decides the exit code of
// tsunamictl.
type Code string

// The codes.
const (
	Usage       Code = "usage"       // the request or a document is wrong in itself
	Refused     Code = "refused"     // it is right, but not now, or not for this actor
	NotFound    Code = "not_found"   // it names something that isn't there
	Failed      Code = "failed"      // it couldn't be carried out
	Unavailable Code = "unavailable" // nobody answers, or not in time; trying again may help
)

// Error is a request's failure, on the wire and off it.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"` // what was wrong, and what would be right
	// Faults are the wrong fields of documents, where that is what is wrong.
	Faults []Fault `json:"faults,omitempty"`
}

// Fault is a fault in one field of one document.
type Fault struct {
	// Document is the document's index in the request, from 0.
	Document int    `json:"document"`
	Field    string `json:"field,omitempty"` // as a path: limits[0].percent; "" is the document as a whole
	Problem  string `json:"problem"`
}

func (f Fault) String() string {
	if f.Field == "" {
		return f.Problem
	}
	return f.Field + ": " + f.Problem
}

func (e *Error) Error() string {
	if e.Message != "" || len(e.Faults) == 0 {
		return e.Message
	}
	all := make([]string, len(e.Faults))
	for i, f := range e.Faults {
		all[i] = f.String()
	}
	return strings.Join(all, "; ")
}

// Is makes errors.Is(err, rollout.ErrNotFound) and rollout.ErrRefused work on
// the client's side too.
func (e *Error) Is(target error) bool {
	return target == rollout.ErrNotFound && e.Code == NotFound || target == rollout.ErrRefused && e.Code == Refused
}

// Errorf makes an *Error.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// documentError says which document of a request an error is about.
type documentError struct {
	index int
	err   error
}

func (e *documentError) Error() string { return e.err.Error() }
func (e *documentError) Unwrap() error { return e.err }

// DocumentError says that err is about the index-th document of a request,
// from 0. A handler that checks several documents joins what it finds.
func DocumentError(index int, err error) error { return &documentError{index, err} }

// AsError turns what a handler returned into what goes on the wire: an *Error
// stays as it is, field errors become faults, rollout.ErrRefused and
// ErrNotFound give the code; joined errors are taken apart.
func AsError(err error) *Error {
	if e, ok := err.(*Error); ok {
		return e
	}
	e := new(Error)
	var other []string
	var walk func(err error, index int, inside bool)
	walk = func(err error, index int, inside bool) {
		switch x := err.(type) {
		case *documentError:
			walk(x.err, x.index, true)
			return
		case *rollout.FieldError:
			e.Faults = append(e.Faults, Fault{index, x.Field, x.Problem})
			return
		case *Error:
			for _, f := range x.Faults {
				if inside {
					f.Document = index
				}
				e.Faults = append(e.Faults, f)
			}
			if x.Message == "" {
				return
			}
			if err = errors.New(x.Message); inside {
				break
			}
			other = append(other, x.Message)
			return
		case interface{ Unwrap() []error }:
			if all := x.Unwrap(); errors.Join(all...).Error() == err.Error() {
				for _, err := range all {
					walk(err, index, inside)
				}
				return
			}
		}
		if inside {
			e.Faults = append(e.Faults, Fault{Document: index, Problem: err.Error()})
		} else {
			other = append(other, err.Error())
		}
	}
	walk(err, 0, false)
	e.Message = strings.Join(other, "; ")
	inner, ok := errors.AsType[*Error](err)
	switch {
	case ok && inner.Code != Usage:
		e.Code = inner.Code
	case errors.Is(err, rollout.ErrRefused):
		e.Code = Refused
	case errors.Is(err, rollout.ErrNotFound):
		e.Code = NotFound
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		e.Code = Unavailable
	case ok, len(other) == 0:
		e.Code = Usage
	default:
		e.Code = Failed
	}
	return e
}
