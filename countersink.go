package kstage

// CounterSink is seven counters. They are called inline, by many goroutines at once.
type CounterSink interface {
	IncPublished()     // a record was acknowledged to a Producer
	IncPublishFailed() // a record of a Producer has failed
	IncReceived()      // a record was fetched and queued
	IncProcessed()     // a record's handler returned nil
	IncFailed()        // a handler call has failed: each retry counts
	IncRetried()       // a copy was acknowledged by a retry topic
	IncSentToDLQ()     // a copy was acknowledged by the dead-letter topic
}

// NewCounterMetrics makes a MetricsCollector of seven counters, which count what
// CounterSnapshot's fields of these names do. A nil sink is a mistake that
// the constructors report.
func NewCounterMetrics(s CounterSink) MetricsCollector {
	if isNil(s) {
		return (*counterMetrics)(nil)
	}
	return &counterMetrics{sink: s}
}

type counterMetrics struct {
	NopMetrics
	sink CounterSink
}

// Published implements MetricsCollector.
func (c *counterMetrics) Published(e PublishedEvent) {
	if e.Err != nil {
		c.sink.IncPublishFailed()
		return
	}
	c.sink.IncPublished()
}

// Received implements MetricsCollector.
func (c *counterMetrics) Received(e ReceivedEvent) {
	for range e.Records {
		c.sink.IncReceived()
	}
}

// Handled implements MetricsCollector.
func (c *counterMetrics) Handled(e HandledEvent) {
	switch e.Outcome {
	case OutcomeProcessed:
		c.sink.IncProcessed()
	case OutcomeRetryHere, OutcomeRetryLater, OutcomeDead, OutcomeDropped:
		if e.Err != nil { // else no call has failed now: see Counters
			c.sink.IncFailed()
		}
	case OutcomeSnoozed, OutcomeHopped, OutcomeSkipped, OutcomeDuplicate, OutcomeReleased, OutcomeForeign:
	}
}

// HandedOff implements MetricsCollector.
func (c *counterMetrics) HandedOff(e HandedOffEvent) {
	switch {
	case e.Err != nil, e.Stale:
	case e.Dead:
		c.sink.IncSentToDLQ()
	default:
		c.sink.IncRetried()
	}
}
