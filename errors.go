package kstage

import (
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// Errors that callers compare with errors.Is.
var (
	// ErrAlreadyRun is returned by a second Run of one Consumer.
	ErrAlreadyRun = errors.New("kstage: the consumer was already run")
	// ErrNotRunning is returned by Consumer.HealthCheck before and after Run.
	ErrNotRunning = errors.New("kstage: the consumer does not run")
	// ErrNotParked is returned by Consumer.Skip for a record that is not parked,
	// blocked or waiting in a failing hand-off: one that is running, finished,
	// or not held by this consumer at all.
	ErrNotParked = errors.New("kstage: the record is not parked")

	// ErrRevoked is the cause of a handler's cancelled context when its
	// partition moved to another member and the drain took too long.
	ErrRevoked = errors.New("kstage: partition revoked")
	// ErrLost is the cause when the partition was lost: the group went on
	// without this member, or the topic was deleted and created again.
	ErrLost = errors.New("kstage: partition lost")
	// ErrShutdown is the cause when Run's context ended and the soft limit of
	// the shutdown passed.
	ErrShutdown = errors.New("kstage: shutting down")
	// ErrHandlerTimeout is the cause when WithHandlerTimeout's limit passed.
	// Unlike the other causes it is a failure of the handler and is retried.
	ErrHandlerTimeout = errors.New("kstage: handler timeout")
)

// Permanent marks err as one that no retry can cure: the record is dead at
// once. Permanent(nil) is nil. The mark survives wrapping (errors.As finds it);
// of several, the outermost counts.
func Permanent(err error) error { return mark(err, directPermanent, 0) }

// Skip marks the record as finished although err happened: it is counted as
// skipped, committed, and sent nowhere. Skip(nil) is nil. The mark survives
// wrapping as Permanent's does.
func Skip(err error) error { return mark(err, directSkip, 0) }

// RetryAfter marks err as one to retry no sooner than d from now, and not in
// this process: the record goes to the first of the stages left to it whose delay
// is at least d. Where none is so long it waits at the last one until d has passed,
// and is handled at most that stage's delay later. It costs one attempt; at the
// last stage the record is dead. Without stages its key waits here for d, as often
// as WithImmediateRetries says. d of zero or less is as soon as the next stage
// allows. RetryAfter(nil, d) is nil. The mark survives wrapping as Permanent's does.
func RetryAfter(err error, d time.Duration) error { return mark(err, directRetryAfter, d) }

// Snooze makes the handler be called again d from now, at the earliest: nothing
// has failed, it is too early. The record waits in the first stage from its own on
// whose delay is at least d, or in the last until d has passed; without stages its
// key waits here for d. It costs no attempt and no stage; WithMaxAge bounds it. The
// mark survives wrapping as Permanent's does.
func Snooze(d time.Duration) error { return mark(errSnoozed, directSnooze, d) }

var errSnoozed = errors.New("kstage: snoozed")

// IsPermanent reports whether err, or an error it wraps, came from Permanent.
func IsPermanent(err error) bool { return directiveOf(err).kind == directPermanent }

// IsSkip reports whether err, or an error it wraps, came from Skip.
func IsSkip(err error) bool { return directiveOf(err).kind == directSkip }

// RetryDelay returns the d of RetryAfter or Snooze; false where err, and what it
// wraps, came from neither.
func RetryDelay(err error) (d time.Duration, ok bool) {
	dir := directiveOf(err)
	return dir.wait, dir.kind == directRetryAfter || dir.kind == directSnooze
}

// directive is a handler's decision, travelling as an error so that it can be wrapped.
type directive struct {
	err  error
	kind directiveKind
	wait time.Duration // retry after, snooze
}

type directiveKind int

const (
	directNone directiveKind = iota
	directPermanent
	directSkip
	directRetryAfter
	directSnooze
)

func mark(err error, kind directiveKind, wait time.Duration) error {
	if err == nil {
		return nil
	}
	return &directive{err, kind, wait}
}

func (d *directive) Error() string { return d.err.Error() }
func (d *directive) Unwrap() error { return d.err }

// directiveOf returns the outermost directive of err; the zero one when it has none.
func directiveOf(err error) directive {
	if d, ok := errors.AsType[*directive](err); ok {
		return *d
	}
	return directive{}
}

// PanicError is what a handler's panic becomes. A handler that ended its
// goroutine (runtime.Goexit, testing.T.FailNow) gives one whose Value is nil;
// panic(nil) gives a *runtime.PanicNilError.
type PanicError struct {
	Value any    // what was passed to panic
	Stack []byte // of the panicking goroutine; empty after Goexit
}

// unreadableError stands for a handler's error that panics when it is read: most
// often a nil pointer in an error. Logs, headers and Health could not show it.
type unreadableError struct{ typ string }

func (e *unreadableError) Error() string {
	return "kstage: the handler's error of type " + e.typ + " panics when it is read (is it a nil pointer?)"
}

// readable returns err, or what stands for it where its text or what it wraps
// cannot be read without a panic. Everything after it may read err.
func readable(err error) (out error) {
	defer func() {
		if recover() != nil {
			out = standIn(err)
		}
	}()
	_ = err.Error()
	_ = errors.Is(err, errWalked)
	return err
}

// errWalked is wrapped by nothing: looking for it reads all of a chain.
var errWalked = errors.New("kstage: not to be found")

// standIn keeps of an unreadable error what decides about its record.
func standIn(err error) error {
	switch e := err.(type) { //nolint:errorlint // what is wrapped cannot be read
	case *PanicError:
		return &PanicError{Value: fmt.Sprintf("%T(%v)", e.Value, e.Value), Stack: e.Stack}
	case *timeoutError:
		return &timeoutError{after: e.after, err: readable(e.err)}
	}
	stand := &unreadableError{typ: typeBefore(err)}
	if d := directiveBefore(err); d.kind != directNone {
		return &directive{stand, d.kind, d.wait}
	}
	return stand
}

// typeBefore names the type of the last error of the chain that can be reached.
func typeBefore(err error) (typ string) {
	defer func() { _ = recover() }()
	for ; err != nil; err = unwrapFirst(err) {
		typ = fmt.Sprintf("%T", err)
	}
	return typ
}

// directiveBefore returns the directive that comes before what cannot be read.
func directiveBefore(err error) (d directive) {
	defer func() { _ = recover() }()
	return directiveOf(err)
}

func newPanicError(v any) *PanicError {
	if v == nil {
		return &PanicError{}
	}
	return &PanicError{Value: v, Stack: debug.Stack()}
}

func (e *PanicError) Error() string {
	if e.Value == nil {
		return "kstage: the handler ended its goroutine"
	}
	return fmt.Sprintf("kstage: the handler panicked: %v", e.Value)
}

// Unwrap returns the panic's value where it is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// Coordinates name one record.
type Coordinates struct {
	Topic     string
	Partition int32
	Offset    int64
}

func (c Coordinates) String() string {
	return fmt.Sprintf("%s/%d@%d", c.Topic, c.Partition, c.Offset)
}

// DrainError is returned by Run when the shutdown's limits passed before
// everything in progress had ended. The records are not committed: the next
// owner of their partitions handles them again.
type DrainError struct {
	// Abandoned are the records whose handler had not returned, or whose
	// retry or dead-letter copy was not acknowledged.
	Abandoned []Coordinates
}

func (e *DrainError) Error() string {
	const most = 10
	var b strings.Builder
	fmt.Fprintf(&b, "kstage: shut down with %d records in progress:", len(e.Abandoned))
	for i, c := range e.Abandoned {
		if i == most {
			fmt.Fprintf(&b, " and %d more", len(e.Abandoned)-most)
			break
		}
		b.WriteString(" " + c.String())
	}
	return b.String()
}

// StoppedError is returned by Run when a record died under WithoutDLQ(Stop).
// The record is not committed: a restart meets it again.
type StoppedError struct {
	Coordinates
	Err error // why the record is dead
}

func (e *StoppedError) Error() string {
	return fmt.Sprintf("kstage: stopped at dead record %s: %v", e.Coordinates, e.Err)
}

func (e *StoppedError) Unwrap() error { return e.Err }

// GapError says that records were deleted (retention, DeleteRecords) before
// this group read them: those from Expected up to LogStart. It is Run's error
// under WithOnGap(StopOnGap) and the Err of a HealthGap reason otherwise.
//
// Offsets of transaction markers and of compacted records count, too: where
// nothing but those was deleted, nothing is lost, and no client can tell.
type GapError struct {
	Topic     string
	Partition int32
	Expected  int64 // the offset that would have been read next
	LogStart  int64 // the first offset that still exists
}

func (e *GapError) Error() string {
	return fmt.Sprintf("kstage: %s/%d: offsets %d to %d were deleted before they were read",
		e.Topic, e.Partition, e.Expected, e.LogStart-1)
}

// TopologyError lists everything that is wrong with the topics of a consumer.
// Warnings are listed with the errors; there is at least one error.
type TopologyError struct{ Problems []TopicProblem }

func (e *TopologyError) Error() string {
	var b strings.Builder
	b.WriteString("kstage: the topics are not fit for use:")
	for _, p := range e.Problems {
		b.WriteString("\n  " + p.String())
	}
	return b.String()
}

// timeoutError is the failure of a handler that overran WithHandlerTimeout.
type timeoutError struct {
	after time.Duration
	err   error // what the handler returned
}

func (e *timeoutError) Error() string {
	return fmt.Sprintf("%v after %v: %v", ErrHandlerTimeout, e.after, e.err)
}

func (e *timeoutError) Unwrap() []error { return []error{ErrHandlerTimeout, e.err} }

// Errors of a Producer that callers compare with errors.Is.
var (
	// ErrBufferFull says that there was no room for a record: at once under
	// FailWhenFull, else when the caller's context or the delivery timeout ended
	// before there was. The record was not sent.
	ErrBufferFull = errors.New("kstage: the producer's buffer is full")
	// ErrClosed says that the Producer was closed. A record that gets it by itself was
	// not sent; one that Close gave up on gets it inside an *UnconfirmedError.
	ErrClosed = errors.New("kstage: the producer is closed")
)

// UnconfirmedError says that a record's outcome is not known: the caller's context or
// the delivery timeout ended, or the Producer was closed, before the broker answered.
// The record may be written already, or still be. Published again it may be written twice.
type UnconfirmedError struct{ Err error }

func (e *UnconfirmedError) Error() string {
	return fmt.Sprintf("kstage: not confirmed, the record may still be written: %v", e.Err)
}

// Unwrap returns why nobody waits any longer.
func (e *UnconfirmedError) Unwrap() error { return e.Err }

// BatchError is returned by PublishBatch when at least one record failed. Those that
// are not in it were acknowledged.
type BatchError struct {
	// Failed is why, by the record's index in the call. An *UnconfirmedError among
	// them may still be written.
	Failed map[int]error
}

func (e *BatchError) Error() string {
	const most = 10
	var b strings.Builder
	fmt.Fprintf(&b, "kstage: %d records of the batch failed:", len(e.Failed))
	for n, i := range slices.Sorted(maps.Keys(e.Failed)) {
		if n == most {
			fmt.Fprintf(&b, "\n  and %d more", len(e.Failed)-most)
			break
		}
		fmt.Fprintf(&b, "\n  [%d] %v", i, e.Failed[i])
	}
	return b.String()
}

// Unwrap returns all of them, in the order of their indices.
func (e *BatchError) Unwrap() []error {
	errs := make([]error, 0, len(e.Failed))
	for _, i := range slices.Sorted(maps.Keys(e.Failed)) {
		errs = append(errs, e.Failed[i])
	}
	return errs
}
