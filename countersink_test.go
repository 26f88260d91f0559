package kstage_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kstage/kstage"
)

// seven has the seven methods.
type seven struct {
	published, publishFailed, received, processed, failed, retried, sentToDLQ atomic.Uint64
}

func (s *seven) IncPublished()     { s.published.Add(1) }
func (s *seven) IncPublishFailed() { s.publishFailed.Add(1) }
func (s *seven) IncReceived()      { s.received.Add(1) }
func (s *seven) IncProcessed()     { s.processed.Add(1) }
func (s *seven) IncFailed()        { s.failed.Add(1) }
func (s *seven) IncRetried()       { s.retried.Add(1) }
func (s *seven) IncSentToDLQ()     { s.sentToDLQ.Add(1) }

func (s *seven) counts() [7]uint64 {
	return [7]uint64{
		s.published.Load(), s.publishFailed.Load(), s.received.Load(), s.processed.Load(),
		s.failed.Load(), s.retried.Load(), s.sentToDLQ.Load(),
	}
}

func sevenOf(s kstage.CounterSnapshot) [7]uint64 {
	return [7]uint64{s.Published, s.PublishFailed, s.Received, s.Processed, s.Failed, s.Retried, s.SentToDLQ}
}

// The seven count what Counters count, whatever the events.
func TestSevenCountersCountAsCountersDo(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var sink seven
		var counters kstage.Counters
		both := []kstage.MetricsCollector{kstage.NewCounterMetrics(&sink), &counters}
		for range rapid.IntRange(0, 50).Draw(t, "events") {
			err := rapid.SampledFrom([]error{nil, errPure}).Draw(t, "err")
			kind := rapid.IntRange(0, 3).Draw(t, "event")
			n := rapid.IntRange(0, 5).Draw(t, "records")
			outcome := kstage.Outcome(rapid.IntRange(0, 12).Draw(t, "outcome"))
			dead, stale := rapid.Bool().Draw(t, "dead"), rapid.Bool().Draw(t, "stale")
			for _, m := range both {
				switch kind {
				case 0:
					m.Published(kstage.PublishedEvent{Err: err})
				case 1:
					m.Received(kstage.ReceivedEvent{Records: n})
				case 2:
					m.Handled(kstage.HandledEvent{Outcome: outcome, Err: err})
				case 3:
					m.HandedOff(kstage.HandedOffEvent{Dead: dead, Stale: stale, Err: err})
				}
			}
		}
		require.Equal(t, sevenOf(counters.Snapshot()), sink.counts())
	})
}

func TestANilSinkIsAMistake(t *testing.T) {
	t.Parallel()
	for _, sink := range []kstage.CounterSink{nil, (*seven)(nil)} {
		_, err := kstage.NewConsumer(kstage.HandlerFunc(handleNothing), kstage.WithBrokers("localhost:9092"), kstage.WithGroup("g"),
			kstage.WithTopics("orders"), kstage.WithMetrics(kstage.NewCounterMetrics(sink)))
		require.ErrorContains(t, err, "WithMetrics: the collector is a nil")
	}
}

// The seven counters of a consumer and a producer, and what they add up to at rest.
func TestEndToEndSevenCounters(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic, opts := w.ladder(1)
	var sink seven
	metrics := kstage.WithMetrics(kstage.NewCounterMetrics(&sink))
	p := w.producer(metrics, kstage.WithTopic(topic))
	for range 10 {
		require.NoError(t, p.Publish(t.Context(), text("k", "v")))
	}
	require.Error(t, p.Publish(t.Context(), nil))
	m := w.start(func(_ context.Context, msg kstage.Message) error {
		switch {
		case msg.Record.Offset < 2:
			return kstage.Permanent(errTest)
		case msg.Record.Offset == 2 && msg.Attempt() == 1:
			return errTest
		}
		return nil
	}, append(opts, metrics)...)
	w.eventually(func() bool { return sink.processed.Load()+sink.sentToDLQ.Load() == 10 })
	require.NoError(t, m.stop())
	require.Equal(t, [7]uint64{10, 1, 10, 8, 3, 0, 2}, sink.counts())
}
