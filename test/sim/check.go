package sim

import (
	"fmt"
	"time"
)

// Violation is a rule that was broken.
type Violation struct {
	Rule string
	At   time.Duration
	Text string
}

func (v Violation) String() string { return fmt.Sprintf("%s at %v: %s", v.Rule, v.At, v.Text) }

// rule is an invariant: a pure check of a run.
type rule struct {
	name  string
	check func(r *Run, found *findings)
}

// rules lists the invariants, by name.
func rules() []rule {
	return []rule{
		{"no-loss", noLoss},
		{"no-invention", noInvention},
		{"dead-letters-told", deadLettersTold},
		{"commit-safety", commitSafety},
		{"commit-ownership", commitOwnership},
		{"commit-epoch", commitEpoch},
		{"key-order", keyOrder},
		{"fenced", fenced},
		{"never-early", neverEarly},
		{"attempts", attempts},
		{"identical-copies", identicalCopies},
		{"dedupe", dedupe},
		{"clean-end", cleanEnd},
		{"counts", counts},
		{"bounds", bounds},
		{"health-tells", healthTells},
		{"healthy-again", healthyAgain},
		{"progress", progress},
	}
}

// Rules are the names of the invariants.
func Rules() (names []string) {
	for _, r := range rules() {
		names = append(names, r.name)
	}
	return names
}

// findings collects violations of one rule.
type findings struct {
	rule string
	all  *[]Violation
}

func (f *findings) add(at time.Duration, format string, args ...any) {
	*f.all = append(*f.all, Violation{f.rule, at, fmt.Sprintf(format, args...)})
}

// Check names every rule that a run has broken. It is pure.
func Check(r *Run) (all []Violation) {
	for _, rule := range rules() {
		rule.check(r, &findings{rule.name, &all})
	}
	return all
}

// spot is a partition.
type spot struct {
	topic     string
	partition int32
}

func (p Place) spot() spot { return spot{p.Topic, p.Partition} }

// ownership is a member and a partition.
type ownership struct {
	member string
	spot   spot
}

func (e *Event) ownership() ownership { return ownership{e.Member, e.Place.spot()} }
