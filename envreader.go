package kstage

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// environment reads variables. It keeps which were asked for, and what is wrong. It is
// used by one goroutine.
type environment struct {
	lookup func(name string) string
	names  func() []string // of all variables there are
	asked  []variable
	wrong  mistakes
	bad    map[string]bool // names of variables with a value that was refused
}

// variable is one that is read. docs/configuration.md has a row for each; a test
// compares the two.
type variable struct {
	name   string
	unset  string // its value where it is not set; empty: none
	told   string // the default as it is told; empty: as unset
	takes  string // what would be right
	secret bool   // its value is never shown
}

func (v variable) standard() string {
	if v.told != "" {
		return v.told
	}
	return v.unset
}

func osEnvironment() *environment { return newEnvironment(os.Getenv, environmentNames) }

func newEnvironment(lookup func(string) string, names func() []string) *environment {
	return &environment{lookup: lookup, names: names, bad: map[string]bool{}}
}

func environmentNames() (names []string) {
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		names = append(names, name)
	}
	return names
}

// given is what a variable is set to, without blanks around it; empty: it is not set.
// Secrets are as they are.
func (e *environment) given(v variable) string {
	if v.secret {
		return e.lookup(v.name)
	}
	return strings.TrimSpace(e.lookup(v.name))
}

// text is a variable's value, its default included.
func (e *environment) text(v variable) string { return cmp.Or(e.given(v), v.unset) }

func (e *environment) isSet(v variable) bool { return e.given(v) != "" }

// isRight says that a variable's value was not refused.
func (e *environment) isRight(v variable) bool { return !e.bad[v.name] }

// shown is a variable with its value, as an error shows it.
func (e *environment) shown(v variable) string {
	switch {
	case v.secret:
		return v.name
	case !e.isSet(v):
		return fmt.Sprintf("%s (unset: %s)", v.name, v.standard())
	}
	return fmt.Sprintf("%s=%q", v.name, e.text(v))
}

// refuse notes that a variable is wrong, and what it takes.
func (e *environment) refuse(v variable, why error) {
	e.bad[v.name] = true
	if errors.Is(why, errMalformed) {
		e.wrong.add("%s: it takes %s", e.shown(v), v.takes)
		return
	}
	e.wrong.add("%s: it takes %s: %w", e.shown(v), v.takes, why)
}

// value reads a variable. A wrong one is zero.
func value[T any](e *environment, v variable, parse func(string) (T, error)) (parsed T) {
	e.asked = append(e.asked, v)
	s := e.text(v)
	if s == "" {
		return parsed
	}
	got, err := parse(s)
	if err != nil {
		e.refuse(v, err)
		return parsed
	}
	return got
}

// listOf parses what commas separate.
func listOf[T any](parse func(string) (T, error)) func(string) ([]T, error) {
	return func(s string) (list []T, err error) {
		for part := range strings.SplitSeq(s, ",") {
			part = strings.TrimSpace(part)
			if part == "" {
				return nil, errors.New("an entry of the list is empty")
			}
			v, err := parse(part)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, nil
	}
}

func brokerAddress(s string) (string, error) {
	if strings.Contains(s, "://") {
		return "", fmt.Errorf("%q is a URL; only its host and port", s)
	}
	return s, kgo.ValidateOpts(kgo.SeedBrokers(s))
}

func wholeNumber(least, most int) func(string) (int, error) {
	return func(s string) (int, error) {
		n, err := strconv.Atoi(s)
		if err != nil || n < least || n > most {
			return 0, errMalformed
		}
		return n, nil
	}
}

func durationFrom(least time.Duration) func(string) (time.Duration, error) {
	return func(s string) (time.Duration, error) {
		d, err := time.ParseDuration(s)
		switch _, isNumber := strconv.Atoi(s); {
		case err != nil && isNumber == nil:
			return 0, fmt.Errorf("%s of which unit?", s)
		case err != nil || d < least:
			return 0, errMalformed
		}
		return d, nil
	}
}

func trueOrFalse(s string) (bool, error) {
	b, err := strconv.ParseBool(s)
	if err != nil {
		return false, errMalformed
	}
	return b, nil
}

// oneOf parses a choice, whatever its case.
func oneOf[T any](choices map[string]T) func(string) (T, error) {
	return func(s string) (T, error) {
		v, ok := choices[strings.ToLower(s)]
		if !ok {
			return v, errMalformed
		}
		return v, nil
	}
}

// misspelt are names in the environment that are almost those of variables that were
// asked for. Others are nobody's business here: Kubernetes makes names that begin with
// a service's.
func (e *environment) misspelt() (told []string) {
	var known []string
	for _, v := range e.asked {
		known = append(known, v.name)
	}
	for _, name := range e.names() {
		if !strings.HasPrefix(name, "KAFKA_") || slices.Contains(known, name) {
			continue
		}
		for _, k := range known {
			if edits(name, k) <= 2 {
				told = append(told, fmt.Sprintf("%s is not read; is %s meant?", name, k))
				break
			}
		}
	}
	slices.Sort(told)
	return told
}

// edits counts the bytes to insert, delete or replace that turn a into b.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
