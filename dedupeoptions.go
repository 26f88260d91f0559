package kstage

import (
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// DedupeOption is an option of WithDedupe.
type DedupeOption interface {
	applyDedupe(*consumerConfig)
}

type dedupeOption func(*consumerConfig)

func (f dedupeOption) applyDedupe(c *consumerConfig) { f(c) }

const (
	defaultLease = 15 * time.Second
	minLease     = time.Second
)

// WithDedupe handles each message id once, as far as s remembers: a record whose id
// was handled before by this group is finished as a duplicate, one that is being
// handled elsewhere waits. The store is asked before each first call of a handler,
// and told when it returned nil; a worker waits for its answer, 4 s at most.
//
// What it cannot do: between the handler's return and the store's confirmation lies a
// moment, and a process that dies in it leaves a record that was handled and is
// handled again.
//
// Ids are unique within a group and its retry topics (their prefix), see
// WithMessageID. Where the store fails nothing is handled until it works again
// (HealthDedupeFailing), but see DedupeFailOpen. Nil and the default: no
// deduplication. A nil pointer in the interface is a mistake.
func WithDedupe(s DedupeStore, opts ...DedupeOption) ConsumerOption {
	return consumerOption(func(c *consumerConfig) {
		c.dedupe, c.dedupeLease, c.dedupeFailOpen = s, defaultLease, false
		for _, o := range opts {
			if o != nil {
				o.applyDedupe(c)
			}
		}
	})
}

// DedupeFailOpen handles records although the store fails, at the price of
// duplicates meanwhile. Default: they wait.
func DedupeFailOpen() DedupeOption {
	return dedupeOption(func(c *consumerConfig) { c.dedupeFailOpen = true })
}

// DedupeLease sets how long a claim lasts that is not renewed: how long the records
// of a process that died wait. Claims are renewed each third of it. At least 1 s;
// default: 15 s.
func DedupeLease(d time.Duration) DedupeOption {
	return dedupeOption(func(c *consumerConfig) { c.dedupeLease = d })
}

// WithMessageID sets what identifies a record of a main topic, for deduplication,
// headers and logs. Where the answer is empty, Message.ID goes on as without. It is called
// by many goroutines at once and more than once for a record, and must always give
// the same answer; where it panics, that is reported in Health (HealthCallbackPanic)
// and counts as empty. Nil and the default: none.
func WithMessageID(f func(*kgo.Record) string) ConsumerOption {
	return consumerOption(func(c *consumerConfig) { c.messageID = f })
}

func (c *consumerConfig) validateDedupe(m *mistakes) {
	if c.dedupe == nil {
		return
	}
	m.check(!isNil(c.dedupe), "WithDedupe: the store is a nil %T", c.dedupe)
	m.check(c.dedupeLease >= minLease, "DedupeLease(%v): at least %v", c.dedupeLease, minLease)
}
