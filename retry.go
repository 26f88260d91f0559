package kstage

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"
)

// WithRetryStages sets the delays of the retry topics, the first stage's first:
// constant, more than zero, none shorter than the one before it. A record that has failed as
// often as WithImmediateRetries allows goes to the next stage's topic and is
// handled again, no sooner, when the delay has passed; behind the last stage it is
// dead. A record that waits keeps nobody. Later records of its key may overtake it.
// Default: no stages.
//
// The topics are read by a group of their own, see WithRetryGroup, and are called
// as WithRetryTopicPrefix says. A stage that is taken away must be empty: Run
// refuses to start while its topic holds unread records.
func WithRetryStages(delays ...time.Duration) ConsumerOption {
	delays = slices.Clone(delays)
	return consumerOption(func(c *consumerConfig) { c.delays = delays })
}

// WithRetryTopicPrefix names the retry topics: the prefix, "-", and the stage's
// number from 1 on. Groups may share them, each handles its own records. Default,
// and empty: the group's name and "-retry". Without stages it has no effect.
func WithRetryTopicPrefix(prefix string) ConsumerOption {
	return consumerOption(func(c *consumerConfig) { c.retryPrefix = prefix })
}

// WithRetryGroup names the consumer group of the retry topics. Default, and empty:
// the group's name and "-retry". Without stages it has no effect.
func WithRetryGroup(id string) ConsumerOption {
	return consumerOption(func(c *consumerConfig) { c.retryGroup = id })
}

// stage is one retry topic of the ladder.
type stage struct {
	number int // 1 is the first
	topic  string
	delay  time.Duration
}

// stages lists the retry topics, the first stage's first.
func (c *consumerConfig) stages() []stage {
	ss := make([]stage, len(c.delays))
	for i, d := range c.delays {
		ss[i] = stage{number: i + 1, topic: stageTopic(c.prefix(), i+1), delay: d}
	}
	return ss
}

func stageTopic(prefix string, n int) string { return prefix + "-" + strconv.Itoa(n) }

// prefix is the common part of the retry topics' names.
func (c *consumerConfig) prefix() string {
	if c.retryPrefix != "" {
		return c.retryPrefix
	}
	return c.group + retrySuffix
}

// retryGroupName is the group of the retry topics, whether there are any or not.
func (c *consumerConfig) retryGroupName() string {
	if c.retryGroup != "" {
		return c.retryGroup
	}
	return c.group + retrySuffix
}

const retrySuffix = "-retry"

func (c *consumerConfig) validateStages(m *mistakes) {
	for i, d := range c.delays {
		m.check(d > 0, "WithRetryStages: delay %d is %v: more than 0", i+1, d)
		m.check(i == 0 || d <= 0 || d >= c.delays[i-1], "WithRetryStages: delay %d, %v, is shorter than the one before it, %v", i+1, d, c.delays[max(i, 1)-1])
	}
	m.check(len(c.delays) == 0 || c.retryGroupName() != c.group, "WithRetryGroup: %q is the group of the main topics, too; it needs one of its own", c.retryGroup)
}

// validateStageNames checks the retry topics' names; seen tells which option has taken a name.
func (c *consumerConfig) validateStageNames(m *mistakes, seen map[string]string) {
	for _, s := range c.stages() {
		option := fmt.Sprintf("WithRetryTopicPrefix(%q)", c.retryPrefix)
		if c.retryPrefix == "" {
			option = "WithGroup: the default names of retry topics cannot be used, set WithRetryTopicPrefix"
		}
		if err := checkTopicName(s.topic); err != nil {
			m.add("%s: %w", option, err)
			return // the others are as the first
		}
		if by := seen[s.topic]; by != "" {
			m.add("%s: %q is named by %s, too; every topic has one role", option, s.topic, by)
		}
		seen[s.topic] = "WithRetryStages"
	}
}

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
// process, in every stage anew, and the back-off before each. Its key waits meanwhile and is never
// overtaken; other keys go on and no worker is held. Default: 2, from 100 ms to
// 1 s. Zero retries turn them off, b is then ignored.
func WithImmediateRetries(n int, b Backoff) ConsumerOption {
	return consumerOption(func(c *consumerConfig) { c.immediate, c.immediateBackoff = n, b })
}

// WithMaxAge bounds how long a record is retried, counted from its first
// failure or Snooze: later it is dead, with ReasonExpired. Every record is handled
// at least once. Zero, the default, is no bound.
func WithMaxAge(d time.Duration) ConsumerOption {
	return consumerOption(func(c *consumerConfig) { c.maxAge = d })
}

// WithClassifier sets a function that decides for errors the handler has not marked
// with Permanent, Skip, RetryAfter or Snooze. It is called for each such error, from many
// goroutines, also for a *PanicError and a timeout; a panic in it is reported
// in Health (HealthCallbackPanic) and counts as ClassRetry. Default: ClassRetry for all.
func WithClassifier(f func(error) Class) ConsumerOption {
	return consumerOption(func(c *consumerConfig) { c.classifier = f })
}
