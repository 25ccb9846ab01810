package control

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// The kinds of documents.
const (
	KindVariable  = "Variable"
	KindRollout   = "Rollout"
	KindObjective = "Objective"
	KindBlackout  = "Blackout"
	KindPin       = "Pin"
)

// Document is one document that an operator applies: exactly one of the
// pointers is set.
type Document struct {
	Variable  *rollout.Variable
	Rollout   *rollout.Spec
	Objective *slo.Objective
	Blackout  *rollout.Blackout
	Pin       *rollout.Pin
}

// kinds are all kinds, in the order in which errors list them.
var kinds = []string{KindVariable, KindRollout, KindObjective, KindBlackout, KindPin}

// Kinds are all kinds of documents, as a person is told of them.
func Kinds() string { return strings.Join(kinds[:len(kinds)-1], ", ") + " or " + kinds[len(kinds)-1] }

// Kind returns the document's kind; "" of an empty one.
func (d Document) Kind() string {
	switch {
	case d.Variable != nil:
		return KindVariable
	case d.Rollout != nil:
		return KindRollout
	case d.Objective != nil:
		return KindObjective
	case d.Blackout != nil:
		return KindBlackout
	case d.Pin != nil:
		return KindPin
	}
	return ""
}

// Name returns the document's name; a pin's is its host.
func (d Document) Name() string {
	switch {
	case d.Variable != nil:
		return string(d.Variable.Name)
	case d.Rollout != nil:
		return string(d.Rollout.Name)
	case d.Objective != nil:
		return string(d.Objective.Name)
	case d.Blackout != nil:
		return string(d.Blackout.Name)
	case d.Pin != nil:
		return string(d.Pin.Host)
	}
	return ""
}

// validate checks the document by itself. Its errors are *rollout.FieldError,
// joined.
func (d Document) validate() error {
	switch {
	case d.Variable != nil:
		return d.Variable.Validate()
	case d.Rollout != nil:
		return d.Rollout.Validate()
	case d.Objective != nil:
		return d.Objective.Validate()
	case d.Blackout != nil:
		return d.Blackout.Validate()
	case d.Pin != nil:
		return d.Pin.Validate()
	}
	return nil
}

// The documents with their kinds, as they are on the wire.
type (
	variableDocument struct {
		Kind string `json:"kind"`
		*rollout.Variable
	}
	rolloutDocument struct {
		Kind string `json:"kind"`
		*rollout.Spec
	}
	objectiveDocument struct {
		Kind string `json:"kind"`
		*slo.Objective
	}
	blackoutDocument struct {
		Kind string `json:"kind"`
		*rollout.Blackout
	}
	pinDocument struct {
		Kind string `json:"kind"`
		*rollout.Pin
	}
)

// whole gives the document with its kind, to be encoded or decoded into.
func (d Document) whole() any {
	switch kind := d.Kind(); kind {
	case KindRollout:
		return &rolloutDocument{kind, d.Rollout}
	case KindObjective:
		return &objectiveDocument{kind, d.Objective}
	case KindBlackout:
		return &blackoutDocument{kind, d.Blackout}
	case KindPin:
		return &pinDocument{kind, d.Pin}
	default:
		return &variableDocument{kind, d.Variable}
	}
}

// blank makes an empty document of a kind; ok is false where there is no such
// kind.
func blank(kind string) (d Document, ok bool) {
	switch kind {
	case KindVariable:
		d.Variable = new(rollout.Variable)
	case KindRollout:
		d.Rollout = new(rollout.Spec)
	case KindObjective:
		d.Objective = new(slo.Objective)
	case KindBlackout:
		d.Blackout = new(rollout.Blackout)
	case KindPin:
		d.Pin = new(rollout.Pin)
	}
	return d, d.Kind() != ""
}

// MarshalJSON writes the document with its kind.
func (d Document) MarshalJSON() ([]byte, error) { return subjects.Encode(d.whole()) }

// UnmarshalJSON reads a document strictly: an unknown kind or field is an
// error.
func (d *Document) UnmarshalJSON(b []byte) error {
	var head struct {
		Kind string `json:"kind"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return err
	}
	made, ok := blank(head.Kind)
	switch {
	case head.Kind == "":
		return fmt.Errorf("kind: is missing: want %s", Kinds())
	case !ok:
		return fmt.Errorf("kind: %q isn't a kind: want %s", shorten(head.Kind, 60), Kinds())
	}
	*d = made
	return subjects.DecodeInto(b, d.whole())
}
