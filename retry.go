package kstage

import (
	"math/rand/v2"
	"time"
)

// Backoff is an exponential back-off with full jitter: the n-th wait is drawn
// between 0 and Min*2^(n-1), at most Max. Both are positive, Min at most Max.
type Backoff struct{ Min, Max time.Duration }

// wait draws the wait after the n-th failure, n >= 1. A wait is never zero:
// a key that waits has to be parked, however shortly.
func (b Backoff) wait(n int, random func(int64) int64) time.Duration {
	return 1 + time.Duration(random(int64(b.limit(n))))
}

// limit is the longest wait after the n-th failure.
func (b Backoff) limit(n int) time.Duration {
	limit := b.Min
	for ; n > 1; n-- {
		if limit > b.Max/2 { // twice as much may be more than a Duration holds
			return b.Max
		}
		limit *= 2
	}
	return min(limit, b.Max)
}

func jitter(n int64) int64 { return rand.Int64N(max(n, 1)) }

// Class is what a classifier makes of a handler's error.
type Class int

const (
	// ClassRetry retries the record as configured.
	ClassRetry Class = iota
	// ClassPermanent means what Permanent means: dead at once.
	ClassPermanent
	// ClassSkip means what Skip means: finished, counted as skipped.
	ClassSkip
)

// WithImmediateRetries sets how often a failed record is handled again in this
// process, and the back-off before each. Its key waits meanwhile and is never
// overtaken; other keys go on and no worker is held. Default: 2, from 100 ms to
// 1 s. Zero retries turn them off, b is then ignored.
func WithImmediateRetries(n int, b Backoff) ConsumerOption {
	return consumerOption(func(c *consumerConfig) { c.immediate, c.immediateBackoff = n, b })
}

// WithMaxAge bounds how long a record is retried, counted from its first
// failure: later it is dead, with ReasonExpired. Every record is handled at
// least once. Zero, the default, is no bound.
func WithMaxAge(d time.Duration) ConsumerOption {
	return consumerOption(func(c *consumerConfig) { c.maxAge = d })
}

// WithClassifier sets a function that decides for errors the handler marked
// with neither Permanent nor Skip. It is called for each such error, from many
// goroutines, also for a *PanicError and a timeout; a panic in it is reported
// in Health (HealthCallbackPanic) and counts as ClassRetry. Default: ClassRetry for all.
func WithClassifier(f func(error) Class) ConsumerOption {
	return consumerOption(func(c *consumerConfig) { c.classifier = f })
}
