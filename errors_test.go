package kstage_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kstage/kstage"
)

func ExamplePermanent() {
	err := kstage.Permanent(errors.New("no such customer"))
	fmt.Println(err, kstage.IsPermanent(err))
	fmt.Println(kstage.Permanent(nil))
	// Output:
	// no such customer true
	// <nil>
}

func ExampleSkip() {
	err := kstage.Skip(errors.New("not for us"))
	fmt.Println(err, kstage.IsSkip(err))
	fmt.Println(kstage.Skip(nil))
	// Output:
	// not for us true
	// <nil>
}

func ExampleIsPermanent() {
	charge := func() error { return kstage.Permanent(errors.New("card expired")) }
	err := fmt.Errorf("charge: %w", charge())
	fmt.Println(err)
	fmt.Println(kstage.IsPermanent(err), kstage.IsPermanent(errors.New("timeout")), kstage.IsPermanent(nil))
	// Output:
	// charge: card expired
	// true false false
}

func ExampleIsSkip() {
	err := fmt.Errorf("decode: %w", kstage.Skip(errors.New("version 1")))
	fmt.Println(kstage.IsSkip(err), kstage.IsPermanent(err))
	// Output: true false
}

// A directive changes neither the text nor what errors.Is finds.
func TestDirectivesAreTransparent(t *testing.T) {
	t.Parallel()
	for _, mark := range []func(error) error{kstage.Permanent, kstage.Skip} {
		err := mark(fmt.Errorf("a: %w", errPure))
		require.ErrorIs(t, err, errPure)
		require.EqualError(t, err, "a: it failed")
		require.NoError(t, mark(nil))
	}
	both := kstage.Skip(kstage.Permanent(errPure))
	require.True(t, kstage.IsSkip(both))
	require.False(t, kstage.IsPermanent(both), "the outermost counts")
	require.False(t, kstage.IsPermanent(nil) || kstage.IsSkip(nil) || kstage.IsPermanent(errPure) || kstage.IsSkip(errPure))
}

func TestPanicError(t *testing.T) {
	t.Parallel()
	require.EqualError(t, kstage.NewPanicError("boom"), "kstage: the handler panicked: boom")
	require.NoError(t, errors.Unwrap(kstage.NewPanicError("boom")))
	require.ErrorIs(t, kstage.NewPanicError(errPure), errPure, "a panic with an error wraps it")
	require.ErrorIs(t, kstage.NewPanicError(new(runtime.PanicNilError)), new(runtime.PanicNilError))
	require.NotEmpty(t, kstage.NewPanicError(1).Stack)
	exit := kstage.NewPanicError(nil)
	require.EqualError(t, exit, "kstage: the handler ended its goroutine")
	require.Empty(t, exit.Stack)
	require.NoError(t, errors.Unwrap(exit))
}

func TestTimeoutError(t *testing.T) {
	t.Parallel()
	err := kstage.NewTimeoutError(time.Second, errPure)
	require.ErrorIs(t, err, kstage.ErrHandlerTimeout)
	require.ErrorIs(t, err, errPure)
	require.EqualError(t, err, "kstage: handler timeout after 1s: it failed")
}

func TestRunErrors(t *testing.T) {
	t.Parallel()
	at := kstage.Coordinates{Topic: "orders", Partition: 3, Offset: 42}
	require.Equal(t, "orders/3@42", at.String())

	stopped := fmt.Errorf("run: %w", &kstage.StoppedError{Coordinates: at, Err: errPure})
	require.ErrorIs(t, stopped, errPure)
	var se *kstage.StoppedError
	require.ErrorAs(t, stopped, &se)
	require.Equal(t, at, se.Coordinates)
	require.ErrorContains(t, stopped, "stopped at dead record orders/3@42: it failed")

	gap := &kstage.GapError{Topic: "orders", Partition: 3, Expected: 10, LogStart: 20}
	require.EqualError(t, gap, "kstage: orders/3: offsets 10 to 19 were deleted before they were read")

	topology := &kstage.TopologyError{Problems: []kstage.TopicProblem{{Topic: "a", What: "b", Fix: "c"}, {Topic: "d", What: "e", Warning: true}}}
	require.EqualError(t, topology, "kstage: the topics are not fit for use:\n  a: b; c\n  warning: d: e")
}

// Of many abandoned records the text names the first ten and tells how many more there are.
func TestDrainErrorNamesWhatIsAbandoned(t *testing.T) {
	t.Parallel()
	var e kstage.DrainError
	for i := range int64(12) {
		e.Abandoned = append(e.Abandoned, kstage.Coordinates{Topic: "t", Partition: 1, Offset: i})
	}
	text := e.Error()
	require.Contains(t, text, "12 records")
	require.Contains(t, text, "t/1@9")
	require.NotContains(t, text, "t/1@10")
	require.True(t, strings.HasSuffix(text, "and 2 more"), text)
	e.Abandoned = e.Abandoned[:1]
	require.True(t, strings.HasSuffix(e.Error(), ": t/1@0"), e.Error())
}

// nilError panics when a nil pointer of it is read.
type nilError struct {
	text  string
	inner error
}

func (e *nilError) Error() string { return e.text }
func (e *nilError) Unwrap() error { return e.inner }

// onlyUnwrapPanics has a text, and nothing that can be unwrapped.
type onlyUnwrapPanics struct{}

func (onlyUnwrapPanics) Error() string { return "text" }
func (onlyUnwrapPanics) Unwrap() error { panic("unwrap") }

// A nil pointer in an error, as a handler returns by mistake, must not take the
// process down wherever the error is read; what decides about the record is kept.
func TestReadable(t *testing.T) {
	t.Parallel()
	typedNil := (*nilError)(nil)
	for _, tt := range []struct {
		name      string
		err       error
		typ       string
		permanent bool
	}{
		{"typed nil", typedNil, "*kstage_test.nilError", false},
		{"unwrap panics", onlyUnwrapPanics{}, "kstage_test.onlyUnwrapPanics", false},
		{"permanent", kstage.Permanent(typedNil), "*kstage_test.nilError", true},
		{"permanent, wrapped", fmt.Errorf("a: %w", kstage.Permanent(typedNil)), "*kstage_test.nilError", true},
		{"joined", errors.Join(errPure, typedNil), "*errors.errorString", false},
		{"a timeout", kstage.NewTimeoutError(1, typedNil), "*kstage_test.nilError", false},
		{"a panic", kstage.NewPanicError(typedNil), "panic(string)", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var err error
			require.NotPanics(t, func() { err = kstage.Readable(tt.err) })
			require.NotPanics(t, func() {
				_ = err.Error()
				_ = errors.Is(err, errors.New("another"))
			})
			require.Equal(t, tt.typ, kstage.ErrorType(err))
			require.Equal(t, tt.permanent, kstage.IsPermanent(err))
		})
	}
	require.ErrorIs(t, kstage.Readable(kstage.NewTimeoutError(1, typedNil)), kstage.ErrHandlerTimeout, "still a timeout")
	var pe *kstage.PanicError
	require.ErrorAs(t, kstage.Readable(kstage.NewPanicError(typedNil)), &pe, "still a panic")
	require.Same(t, errPure, kstage.Readable(errPure), "what can be read stays what it is")
}

type (
	valueError  struct{ s string }
	severalNils struct{}
)

func (e valueError) Error() string      { return e.s }
func (severalNils) Error() string       { return "" }
func (severalNils) Unwrap() []error     { return []error{nil, nil} }
func wrapped(err error) error           { return fmt.Errorf("a: %w", fmt.Errorf("b: %w", err)) }
func joined(errs ...error) error        { return errors.Join(errs...) }
func timedOut(err error) error          { return kstage.NewTimeoutError(time.Second, err) }
func panicked(v any) *kstage.PanicError { return kstage.NewPanicError(v) }

// The type is that of what the handler met, not of what it was wrapped with.
func TestErrorType(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{"plain", errPure, "*errors.errorString"},
		{"a value", valueError{"x"}, "kstage_test.valueError"},
		{"wrapped", wrapped(valueError{"x"}), "kstage_test.valueError"},
		{"permanent", kstage.Permanent(valueError{"x"}), "kstage_test.valueError"},
		{"skip, wrapped", wrapped(kstage.Skip(valueError{"x"})), "kstage_test.valueError"},
		{"joined: the first", joined(valueError{"x"}, errPure), "kstage_test.valueError"},
		{"joined, wrapped", wrapped(joined(wrapped(valueError{"x"}), errPure)), "kstage_test.valueError"},
		{"two wrapped at once", fmt.Errorf("%w %w", valueError{"x"}, errPure), "kstage_test.valueError"},
		{"one that wraps nothing", severalNils{}, "kstage_test.severalNils"},
		{"a panic", panicked("boom"), "panic(string)"},
		{"a panic with an error", panicked(valueError{"x"}), "panic(kstage_test.valueError)"},
		{"a wrapped panic", wrapped(panicked(7)), "panic(int)"},
		{"Goexit", panicked(nil), "runtime.Goexit"},
		{"a timeout", timedOut(wrapped(context.DeadlineExceeded)), "context.deadlineExceededError"},
		{"a timeout of a permanent", timedOut(kstage.Permanent(valueError{"x"})), "kstage_test.valueError"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tt.want, kstage.ErrorType(tt.err))
		})
	}
}
