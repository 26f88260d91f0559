package kstage

import (
	"sync/atomic"
	"time"
)

// MetricsCollector is told what happened, inline: an implementation must be
// quick, safe for concurrent use, and must not call Run. It may call any other
// method of the Consumer. Embed NopMetrics: later versions may tell of more. A
// panic in it is recovered and shown in Health (HealthCallbackPanic).
type MetricsCollector interface {
	// Published is told of each record of a Producer, when it was acknowledged or has failed.
	Published(PublishedEvent)
	// Received is told of each batch of records that was fetched.
	Received(ReceivedEvent)
	// Handled is told of each handler call, when it has returned.
	Handled(HandledEvent)
	// HandedOff is told of each answer to a copy: acknowledged or failed.
	HandedOff(HandedOffEvent)
	// Committed is told of each partition's part in a commit.
	Committed(CommittedEvent)
	// Assigned is told when partitions come and go.
	Assigned(AssignedEvent)
	// StateChanged is told when a reason of Health comes and goes: on a goroutine of
	// its own, in order. One that hangs holds the end of Run, and Close, for a second.
	StateChanged(StateEvent)
	// Durations says whether HandledEvent.Duration is wanted: it costs two clock
	// readings a record. It is asked once.
	Durations() bool

	embedNopMetrics()
}

// NopMetrics collects nothing. It is there to be embedded.
type NopMetrics struct{}

// Published does nothing.
func (NopMetrics) Published(PublishedEvent) {}

// Received does nothing.
func (NopMetrics) Received(ReceivedEvent) {}

// Handled does nothing.
func (NopMetrics) Handled(HandledEvent) {}

// HandedOff does nothing.
func (NopMetrics) HandedOff(HandedOffEvent) {}

// Committed does nothing.
func (NopMetrics) Committed(CommittedEvent) {}

// Assigned does nothing.
func (NopMetrics) Assigned(AssignedEvent) {}

// StateChanged does nothing.
func (NopMetrics) StateChanged(StateEvent) {}

// Durations is false.
func (NopMetrics) Durations() bool { return false }

func (NopMetrics) embedNopMetrics() {}

// PublishedEvent is the end of one record of a Producer, whether its caller still
// waited or not.
type PublishedEvent struct {
	Topic     string
	Partition int32 // -1: it has failed
	Err       error // nil: acknowledged
}

// ReceivedEvent is one batch of records, fetched and queued.
type ReceivedEvent struct {
	Topic     string
	Partition int32
	Records   int
	Bytes     int64 // keys, values and headers, decompressed
}

// HandledEvent is one handler call; also a record of a retry topic that was finished
// or written again without one.
type HandledEvent struct {
	Topic     string
	Partition int32
	Stage     int
	Attempt   int // as Message.Attempt
	Outcome   Outcome
	Reason    Reason        // of a dead record, else empty
	Duration  time.Duration // of the handler; zero unless Durations, and after a panic
	Late      time.Duration // of a record from a retry topic: how long past its due time it was started
	Err       error         // what the handler returned, or a *PanicError; not redacted
}

// HandedOffEvent is the answer to one copy.
type HandedOffEvent struct {
	Target  string // topic
	Dead    bool   // a dead letter; else a retry
	Attempt int
	Stale   bool  // the partition has gone meanwhile: its next owner handles the record again
	Err     error // nil: acknowledged
}

// CommittedEvent is one partition's part in a commit.
type CommittedEvent struct {
	Topic     string
	Partition int32
	Offset    int64
	Err       error // nil: committed
}

// AssignedEvent is partitions of one topic that came or went.
type AssignedEvent struct {
	Topic      string
	Partitions []int32
	Kind       AssignmentKind
	// Released counts the records that were received, not finished, and given
	// back. Records whose handler still ran are told of by their HandledEvent
	// (OutcomeReleased) when it returns.
	Released int
	Drain    time.Duration // how long running handlers were waited for
}

// StateEvent is a reason of Health that came or went.
type StateEvent struct {
	Reason  HealthReason
	Cleared bool
}

// Outcome is what a handler call has come to.
type Outcome int

const (
	// OutcomeProcessed means: finished.
	OutcomeProcessed Outcome = iota + 1
	// OutcomeRetryHere means: the key waits, then the handler is called again.
	OutcomeRetryHere
	// OutcomeRetryLater means: handed off to a retry topic.
	OutcomeRetryLater
	// OutcomeSnoozed means: the handler is called again later, as it asked by Snooze: here, or from a retry topic.
	OutcomeSnoozed
	// OutcomeHopped means: written again to its retry topic without a handler call.
	OutcomeHopped
	// OutcomeDead means: handed off to the dead-letter topic.
	OutcomeDead
	// OutcomeDropped means: finished by WithoutDLQ(Drop).
	OutcomeDropped
	// OutcomeSkipped means: finished by Skip, or by Consumer.Skip.
	OutcomeSkipped
	// OutcomeDuplicate means: finished before, and not handled again.
	OutcomeDuplicate
	// OutcomeReleased means: to no effect, since the partition is going or gone: the record is handled again.
	OutcomeReleased
	// OutcomeForeign means: of another group, in a shared retry topic. No handler was called.
	OutcomeForeign
)

var outcomeNames = map[Outcome]string{ //nolint:gochecknoglobals // a constant in all but type
	OutcomeProcessed:  "processed",
	OutcomeRetryHere:  "retry-here",
	OutcomeRetryLater: "retry-later",
	OutcomeSnoozed:    "snoozed",
	OutcomeHopped:     "hopped",
	OutcomeDead:       "dead",
	OutcomeDropped:    "dropped",
	OutcomeSkipped:    "skipped",
	OutcomeDuplicate:  "duplicate",
	OutcomeReleased:   "released",
	OutcomeForeign:    "foreign",
}

func (o Outcome) String() string { return nameOf(outcomeNames, o, "outcome") }

// AssignmentKind is how partitions came or went.
type AssignmentKind int

const (
	// PartitionsAssigned means: they came.
	PartitionsAssigned AssignmentKind = iota + 1
	// PartitionsRevoked means: they went, after a drain and a commit.
	PartitionsRevoked
	// PartitionsLost means: they had gone already; nothing was committed.
	PartitionsLost
)

var assignmentNames = map[AssignmentKind]string{ //nolint:gochecknoglobals // a constant in all but type
	PartitionsAssigned: "assigned",
	PartitionsRevoked:  "revoked",
	PartitionsLost:     "lost",
}

func (k AssignmentKind) String() string { return nameOf(assignmentNames, k, "assignment") }

// Counters is a MetricsCollector that counts. Its zero value is ready; it may be
// shared by several consumers and producers.
type Counters struct {
	NopMetrics

	published, publishFailed, received, processed, failed, retried, sentToDLQ atomic.Uint64
	skipped, dropped, duplicates, released, foreign, stale                    atomic.Uint64
}

// CounterSnapshot is what Counters has counted. When nothing is in progress,
//
//	Received = Processed + Retried + SentToDLQ + Skipped + Dropped + Duplicates + Released + Foreign
type CounterSnapshot struct {
	Published     uint64 // records acknowledged to a Producer
	PublishFailed uint64
	Received      uint64 // records fetched and queued
	Processed     uint64 // records whose handler returned nil
	Failed        uint64 // handler calls that failed: each retry counts
	Retried       uint64 // copies acknowledged by retry topics
	SentToDLQ     uint64 // copies acknowledged by the dead-letter topic
	Skipped       uint64
	Dropped       uint64
	Duplicates    uint64
	Released      uint64 // records given back unfinished
	Foreign       uint64
	Stale         uint64 // acknowledgements for partitions that had gone; those records count as released
}

// Snapshot reads the counts, each by itself.
func (c *Counters) Snapshot() CounterSnapshot {
	return CounterSnapshot{
		Published: c.published.Load(), PublishFailed: c.publishFailed.Load(), Received: c.received.Load(),
		Processed: c.processed.Load(), Failed: c.failed.Load(), Retried: c.retried.Load(), SentToDLQ: c.sentToDLQ.Load(),
		Skipped: c.skipped.Load(), Dropped: c.dropped.Load(), Duplicates: c.duplicates.Load(),
		Released: c.released.Load(), Foreign: c.foreign.Load(), Stale: c.stale.Load(),
	}
}

// Published implements MetricsCollector.
func (c *Counters) Published(e PublishedEvent) {
	if e.Err != nil {
		c.publishFailed.Add(1)
		return
	}
	c.published.Add(1)
}

// Received implements MetricsCollector.
func (c *Counters) Received(e ReceivedEvent) { c.received.Add(uint64(e.Records)) }

// Handled implements MetricsCollector.
func (c *Counters) Handled(e HandledEvent) {
	switch e.Outcome {
	case OutcomeProcessed:
		c.processed.Add(1)
	case OutcomeRetryHere, OutcomeRetryLater, OutcomeDead:
		c.countFailed(e)
	case OutcomeDropped:
		c.countFailed(e)
		c.dropped.Add(1)
	case OutcomeSkipped:
		c.skipped.Add(1)
	case OutcomeDuplicate:
		c.duplicates.Add(1)
	case OutcomeReleased:
		c.released.Add(1)
	case OutcomeForeign:
		c.foreign.Add(1)
	case OutcomeHopped, OutcomeSnoozed:
	}
}

// countFailed counts a call that has failed. Without an error there was none now: the
// record has failed, and was counted, before.
func (c *Counters) countFailed(e HandledEvent) {
	if e.Err != nil {
		c.failed.Add(1)
	}
}

// HandedOff implements MetricsCollector.
func (c *Counters) HandedOff(e HandedOffEvent) {
	switch {
	case e.Err != nil:
	case e.Stale:
		c.stale.Add(1)
	case e.Dead:
		c.sentToDLQ.Add(1)
	default:
		c.retried.Add(1)
	}
}

// Assigned implements MetricsCollector.
func (c *Counters) Assigned(e AssignedEvent) { c.released.Add(uint64(e.Released)) }
