package kstage

import (
	"errors"
	"time"
)

// verdict is what becomes of a record.
type verdict struct {
	kind      verdictKind
	wait      time.Duration // retryHere
	spends    bool          // retryHere, retryLater: it costs an attempt
	to        int           // retryLater, hopped: the stage whose topic the copy goes to
	as        int           // retryLater, hopped: the stage that the record then is of
	notBefore time.Time     // retryLater, hopped: no handler call sooner; zero: the stage's delay says it all
	reason    Reason        // dead
}

type verdictKind int

const (
	handleNow  verdictKind = iota // await alone: the handler is to be called
	finished                      // the record has ended, and well
	skipped                       // the record has ended, by the handler's choice
	retryHere                     // its key waits, then the handler is called again
	retryLater                    // a copy goes to a retry topic
	hopped                        // the same without a handler call: it is too early
	foreign                       // the record is another group's
	dead                          // no retry is left, or none can help
	duplicate                     // the record was handled before, says the dedupe store
	unclaimed                     // somebody else has it, or the dedupe store fails: its key waits
	released                      // no effect at all: whoever gets the partition handles it again
)

// policy is what records are judged by; immutable.
type policy struct {
	immediate int
	backoff   Backoff
	stages    []time.Duration // the delay of stage n at n-1
	maxAge    time.Duration
	classify  func(error) Class   // of errors without a directive; nil: all retry
	random    func(n int64) int64 // in [0, n), for jitter
}

// attempt is what judge knows of a handler call.
type attempt struct {
	stage         int  // of the record
	number        int  // of the call, over all stages
	retries       int  // immediate retries before this call
	blocked       bool // the record was dead before, and is kept by WithoutDLQ(Block)
	cancelled     bool // by us, before the handler returned
	firstFailedAt time.Time
	now           time.Time
}

// await decides about a record from a retry topic before its handler is called.
// It is pure.
func await(p *policy, f *facts, now time.Time) verdict {
	switch {
	case f.retry == nil:
		return verdict{kind: handleNow}
	case f.retry.foreign:
		return verdict{kind: foreign}
	case !now.Before(f.retry.notBefore):
		return verdict{kind: handleNow}
	case p.expired(f.firstFailedAt, now):
		return verdict{kind: dead, reason: ReasonExpired}
	}
	return verdict{kind: hopped, to: len(p.stages), as: f.stage, notBefore: f.retry.notBefore}
}

// judge decides what a handler's answer leads to; settle acts. It is pure but for
// the policy's functions.
func judge(p *policy, a attempt, err error) verdict {
	switch {
	case err == nil:
		return verdict{kind: finished}
	case a.cancelled:
		return verdict{kind: released}
	}
	d := p.directive(err)
	switch {
	case d.kind == directSkip:
		return verdict{kind: skipped}
	case d.kind == directPermanent:
		return verdict{kind: dead, reason: ReasonPermanent}
	case p.expired(a.firstFailedAt, a.now):
		return verdict{kind: dead, reason: ReasonExpired}
	case a.blocked:
		return verdict{kind: dead, reason: exhaustedBy(err)}
	case d.kind == directSnooze:
		return p.snooze(a, d.wait)
	case d.kind == directRetryAfter:
		return p.retryAfter(a, d.wait, err)
	}
	return p.retry(a, err)
}

func (p *policy) expired(firstFailedAt, now time.Time) bool {
	return p.maxAge > 0 && !firstFailedAt.IsZero() && now.Sub(firstFailedAt) > p.maxAge
}

// retry is the way up the ladder: here first, then stage by stage. Retries are told
// anew when a record comes back from a snooze: what it has spent by then, its number
// tells.
func (p *policy) retry(a attempt, err error) verdict {
	switch {
	case a.retries < p.immediate && a.number < (1+p.immediate)*(1+a.stage):
		return verdict{kind: retryHere, wait: p.backoff.wait(a.retries+1, p.random), spends: true}
	case a.stage < len(p.stages):
		return verdict{kind: retryLater, to: a.stage + 1, as: a.stage + 1, spends: true}
	}
	return verdict{kind: dead, reason: exhaustedBy(err)}
}

// retryAfter leaves out the stages that are too short.
func (p *policy) retryAfter(a attempt, d time.Duration, err error) verdict {
	switch {
	case len(p.stages) == 0 && a.retries < p.immediate:
		return verdict{kind: retryHere, wait: max(d, 1), spends: true}
	case a.stage >= len(p.stages):
		return verdict{kind: dead, reason: exhaustedBy(err)}
	}
	v := p.later(a.stage+1, d, a.now)
	v.as, v.spends = v.to, true
	return v
}

// snooze keeps the record where it is on the ladder.
func (p *policy) snooze(a attempt, d time.Duration) verdict {
	if len(p.stages) == 0 {
		return verdict{kind: retryHere, wait: max(d, 1)}
	}
	v := p.later(max(1, a.stage), d, a.now)
	v.as = a.stage
	return v
}

// later chooses the first stage, from one on, whose delay is at least d. Where
// there is none the record hops at the last one until d has passed.
func (p *policy) later(first int, d time.Duration, now time.Time) verdict {
	for k := first; k <= len(p.stages); k++ {
		if p.stages[k-1] >= d {
			return verdict{kind: retryLater, to: k}
		}
	}
	return verdict{kind: retryLater, to: len(p.stages), notBefore: now.Add(d)}
}

// directive is the handler's own where it returned one, else the classifier's
// answer. What a handler panicked with was not returned: a panic is a failure,
// whatever its value.
func (p *policy) directive(err error) directive {
	_, panicked := err.(*PanicError) //nolint:errorlint // ours is never wrapped
	if d := directiveOf(err); d.kind != directNone && !panicked {
		return d
	}
	if p.classify == nil {
		return directive{}
	}
	switch p.classify(err) {
	case ClassPermanent:
		return directive{kind: directPermanent}
	case ClassSkip:
		return directive{kind: directSkip}
	case ClassRetry:
	}
	return directive{}
}

// exhaustedBy tells how the last attempt failed.
func exhaustedBy(err error) Reason {
	if _, ok := errors.AsType[*PanicError](err); ok {
		return ReasonPanic
	}
	if _, ok := errors.AsType[*timeoutError](err); ok {
		return ReasonTimeout
	}
	return ReasonExhausted
}
