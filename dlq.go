package kstage

import (
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// DLQOption is an option of WithDLQ.
type DLQOption interface {
	applyDLQ(*consumerConfig)
}

type dlqOption func(*consumerConfig)

func (f dlqOption) applyDLQ(c *consumerConfig) { f(c) }

// WithDLQ sends dead records to the dead-letter topic. This is the default; use
// it to set options. It replaces an earlier WithDLQ with its options, and an
// earlier WithoutDLQ; the name stays what WithDLQTopic says.
func WithDLQ(opts ...DLQOption) ConsumerOption {
	return consumerOption(func(c *consumerConfig) {
		c.dead, c.dlqStack, c.dlqOversize = 0, false, OversizeBlock
		for _, o := range opts {
			if o != nil {
				o.applyDLQ(c)
			}
		}
	})
}

// WithDLQTopic names the dead-letter topic. Default, and empty: the group's name
// and "-dlq". It replaces an earlier WithoutDLQ.
func WithDLQTopic(name string) ConsumerOption {
	return consumerOption(func(c *consumerConfig) { c.dead, c.dlqTopic = 0, name })
}

// DeadPolicy says what becomes of a dead record where there is no dead-letter topic.
type DeadPolicy int

const (
	// Drop finishes the record: it is gone, but for an error log line with its coordinates.
	Drop DeadPolicy = iota + 1
	// Block keeps the record unfinished and its key waiting. The handler is
	// called again after 1 s, then 2 s, doubling up to 1 m, less up to half as
	// jitter, and these calls are no attempts; Health says HealthStuckRecord;
	// Consumer.Skip is the way out.
	Block
	// Stop ends Run with a *StoppedError. A restart meets the record again.
	Stop
)

// WithoutDLQ sends dead records nowhere and says what happens instead. It
// replaces earlier WithDLQ and WithDLQTopic, their options and name included.
func WithoutDLQ(p DeadPolicy) ConsumerOption {
	return consumerOption(func(c *consumerConfig) {
		c.dlqTopic, c.dlqStack, c.dlqOversize = "", false, OversizeBlock
		if c.dead = p; p == 0 {
			c.dead = -1 // not a policy: validate says so
		}
	})
}

// DLQStack adds the stack of a panic to its dead letter, within the header budget.
func DLQStack() DLQOption { return dlqOption(func(c *consumerConfig) { c.dlqStack = true }) }

// Oversize says what becomes of a dead letter that its topic refuses as too large.
type Oversize int

const (
	// OversizeBlock keeps the record unfinished; Health says HealthOversize.
	OversizeBlock Oversize = iota
	// OversizeReference writes a dead letter without the value: key, headers
	// and coordinates remain, and DeadLetter.ValueOmitted tells the size.
	OversizeReference
)

// DLQOversize sets what happens to dead letters that are too large.
// Default: OversizeBlock.
func DLQOversize(o Oversize) DLQOption {
	return dlqOption(func(c *consumerConfig) { c.dlqOversize = o })
}

// WithErrorRedactor sets how the text of a handler's error appears in
// dead-letter headers, logs and Health; a MetricsCollector and Run's caller get
// the error itself. The error's Go type is not redacted, nor is the stack of
// DLQStack. It is called by many goroutines at once; where it panics, the text is
// left out altogether. Nil and the default: as it is, cut at 1 KiB in headers.
func WithErrorRedactor(f func(string) string) ConsumerOption {
	return consumerOption(func(c *consumerConfig) { c.errorRedactor = f })
}

// Reason is why a record is dead.
type Reason string

const (
	// ReasonPermanent means: the handler returned Permanent, or the classifier said so.
	ReasonPermanent Reason = "permanent"
	// ReasonExhausted means: the handler failed as often as retries are configured.
	ReasonExhausted Reason = "exhausted"
	// ReasonExpired means: the record is older than WithMaxAge allows.
	ReasonExpired Reason = "expired"
	// ReasonPanic means: as ReasonExhausted, and the last failure was a panic.
	ReasonPanic Reason = "panic"
	// ReasonTimeout means: as ReasonExhausted, and the last failure was a timeout.
	ReasonTimeout Reason = "timeout"
	// ReasonOversize means: the record's copy was too large for a retry topic.
	ReasonOversize Reason = "oversize"
)

// DeadLetter is a record of a dead-letter topic with its facts decoded. What is
// optional is zero where the header is missing or illegal.
type DeadLetter struct {
	Record        *kgo.Record // as read from the dead-letter topic
	ID            string      // the record's identity, see Message.ID
	Group         string      // whose handler failed
	Origin        Origin      // where the record was first read
	Attempt       int         // handler calls it took
	Stage         int         // the retry topic of the last one, 0: main
	Reason        Reason
	ErrorType     string    // Go type of the innermost error of the last failure
	Error         string    // its text
	Stack         string    // of a panic, with DLQStack
	ValueOmitted  int64     // bytes of the value that was left out; -1: it is here
	RedriveCount  int       // how often it was redriven before, at most 1,000
	RedriveID     string    // the run that redrove it last; empty: none
	FirstFailedAt time.Time // to the millisecond, by the failing process's clock
	LastFailedAt  time.Time
}
