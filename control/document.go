package control

import (
	"encoding/json"
	"fmt"

	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// The kinds of documents.
const (
	KindVariable = "Variable"
	KindRollout  = "Rollout"
	KindBlackout = "Blackout"
	KindPin      = "Pin"
)

// Document is one document that an operator applies: exactly one of the
// pointers is set.
type Document struct {
	Variable *rollout.Variable
	Rollout  *rollout.Spec
	Blackout *rollout.Blackout
	Pin      *rollout.Pin
}

// Kind returns the document's kind.
func (d Document) Kind() string {
	if d.Rollout != nil {
		return KindRollout
	}
	return KindVariable
}

// Name returns the document's name.
func (d Document) Name() string {
	switch {
	case d.Rollout != nil:
		return string(d.Rollout.Name)
	case d.Variable != nil:
		return string(d.Variable.Name)
	}
	return ""
}

type variableDocument struct {
	Kind string `json:"kind"`
	*rollout.Variable
}

type rolloutDocument struct {
	Kind string `json:"kind"`
	*rollout.Spec
}

// MarshalJSON writes the document with its kind.
func (d Document) MarshalJSON() ([]byte, error) {
	if d.Rollout != nil {
		return json.Marshal(rolloutDocument{KindRollout, d.Rollout})
	}
	return json.Marshal(variableDocument{KindVariable, d.Variable})
}

// UnmarshalJSON reads a document strictly: an unknown kind or field is an
// error.
func (d *Document) UnmarshalJSON(b []byte) error {
	var head struct {
		Kind string `json:"kind"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return err
	}
	*d = Document{}
	switch head.Kind {
	case KindVariable:
		d.Variable = new(rollout.Variable)
		return subjects.DecodeInto(b, &variableDocument{Variable: d.Variable})
	case KindRollout:
		d.Rollout = new(rollout.Spec)
		return subjects.DecodeInto(b, &rolloutDocument{Spec: d.Rollout})
	case "":
		return fmt.Errorf("kind: is missing: want %s or %s", KindVariable, KindRollout)
	default:
		return fmt.Errorf("kind: %q isn't a kind: want %s or %s", head.Kind, KindVariable, KindRollout)
	}
}
