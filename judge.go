package kstage

import (
	"errors"
	"time"
)

// verdict is what becomes of a record after one call of its handler.
type verdict struct {
	kind   verdictKind
	wait   time.Duration // retryHere
	reason Reason        // dead
}

type verdictKind int

const (
	finished  verdictKind = iota + 1 // the record has ended, and well
	skipped                          // the record has ended, by the handler's choice
	retryHere                        // its key waits, then the handler is called again
	dead                             // no retry is left, or none can help
	released                         // no effect at all: whoever gets the partition handles it again
)

// policy is what judge goes by; immutable.
type policy struct {
	immediate int
	backoff   Backoff
	maxAge    time.Duration
	classify  func(error) Class   // of errors without a directive; nil: all retry
	random    func(n int64) int64 // in [0, n), for jitter
}

// attempt is what judge knows of the call.
type attempt struct {
	retries       int  // immediate retries before this call
	blocked       bool // the record was dead before, and is kept by WithoutDLQ(Block)
	cancelled     bool // by us, before the handler returned
	firstFailedAt time.Time
	now           time.Time
}

// judge decides; settle acts. It is pure but for the policy's functions.
func judge(p *policy, a attempt, err error) verdict {
	switch {
	case err == nil:
		return verdict{kind: finished}
	case a.cancelled:
		return verdict{kind: released}
	}
	switch p.class(err) {
	case ClassSkip:
		return verdict{kind: skipped}
	case ClassPermanent:
		return verdict{kind: dead, reason: ReasonPermanent}
	case ClassRetry:
	}
	switch {
	case p.maxAge > 0 && a.now.Sub(a.firstFailedAt) > p.maxAge:
		return verdict{kind: dead, reason: ReasonExpired}
	case a.retries < p.immediate && !a.blocked:
		return verdict{kind: retryHere, wait: p.backoff.wait(a.retries+1, p.random)}
	}
	return verdict{kind: dead, reason: exhaustedBy(err)}
}

// class is the handler's own directive where it returned one, else the
// classifier's answer. What a handler panicked with was not returned: a panic is
// a failure, whatever its value.
func (p *policy) class(err error) Class {
	_, panicked := err.(*PanicError) //nolint:errorlint // ours is never wrapped
	if c := directiveOf(err); c != ClassRetry && !panicked {
		return c
	}
	if p.classify == nil {
		return ClassRetry
	}
	return p.classify(err)
}

// exhaustedBy tells how the last attempt failed.
func exhaustedBy(err error) Reason {
	if pe := (*PanicError)(nil); errors.As(err, &pe) {
		return ReasonPanic
	}
	if te := (*timeoutError)(nil); errors.As(err, &te) {
		return ReasonTimeout
	}
	return ReasonExhausted
}
