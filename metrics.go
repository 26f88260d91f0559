package kstage

import "time"

// MetricsCollector is told what happened.
type MetricsCollector interface {
	Published(PublishedEvent)
	Received(ReceivedEvent)
	Handled(HandledEvent)
	HandedOff(HandedOffEvent)
	Committed(CommittedEvent)
	Assigned(AssignedEvent)
	StateChanged(StateEvent)
	Durations() bool
	embedNopMetrics()
}

// NopMetrics collects nothing.
type NopMetrics struct{}

func (NopMetrics) Published(PublishedEvent) {}
func (NopMetrics) Received(ReceivedEvent)   {}
func (NopMetrics) Handled(HandledEvent)     {}
func (NopMetrics) HandedOff(HandedOffEvent) {}
func (NopMetrics) Committed(CommittedEvent) {}
func (NopMetrics) Assigned(AssignedEvent)   {}
func (NopMetrics) StateChanged(StateEvent)  {}
func (NopMetrics) Durations() bool          { return false }
func (NopMetrics) embedNopMetrics()         {}

type (
	PublishedEvent struct {
		Topic     string
		Partition int32
		Err       error
	}
	ReceivedEvent struct {
		Topic     string
		Partition int32
		Records   int
		Bytes     int64
	}
	HandledEvent struct {
		Topic     string
		Partition int32
		Stage     int
		Attempt   int
		Outcome   Outcome
		Reason    Reason
		Duration  time.Duration
		Late      time.Duration
		Err       error
	}
	HandedOffEvent struct {
		Target  string
		Dead    bool
		Attempt int
		Stale   bool
		Err     error
	}
	CommittedEvent struct {
		Topic     string
		Partition int32
		Offset    int64
		Err       error
	}
	AssignedEvent struct {
		Topic      string
		Partitions []int32
		Kind       AssignmentKind
		Released   int
		Drain      time.Duration
	}
	StateEvent struct {
		Reason  HealthReason
		Cleared bool
	}
	Outcome        int
	AssignmentKind int
)

const (
	OutcomeProcessed Outcome = iota + 1
	OutcomeRetryHere
	OutcomeRetryLater
	OutcomeHopped
	OutcomeDead
	OutcomeDropped
	OutcomeSkipped
	OutcomeDuplicate
	OutcomeReleased
	OutcomeForeign
)

const (
	PartitionsAssigned AssignmentKind = iota + 1
	PartitionsRevoked
	PartitionsLost
)
