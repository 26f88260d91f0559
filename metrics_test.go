package kstage_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kstage/kstage"
)

func ExampleCounters() {
	var c kstage.Counters // the zero value is ready: kstage.WithMetrics(&c)
	c.Received(kstage.ReceivedEvent{Topic: "orders", Records: 3})
	c.Handled(kstage.HandledEvent{Outcome: kstage.OutcomeProcessed})
	c.Handled(kstage.HandledEvent{Outcome: kstage.OutcomeSkipped})
	c.Handled(kstage.HandledEvent{Outcome: kstage.OutcomeDead, Err: errors.New("no such customer")})
	c.HandedOff(kstage.HandedOffEvent{Target: "billing-dlq", Dead: true})
	s := c.Snapshot()
	fmt.Println(s.Received, s.Processed, s.Skipped, s.Failed, s.SentToDLQ)
	// Output: 3 1 1 1 1
}

// What each event adds to.
func TestCounters(t *testing.T) {
	t.Parallel()
	handled := func(o kstage.Outcome) func(*kstage.Counters) {
		return func(c *kstage.Counters) { c.Handled(kstage.HandledEvent{Outcome: o, Err: errPure}) }
	}
	uncalled := func(o kstage.Outcome) func(*kstage.Counters) {
		return func(c *kstage.Counters) { c.Handled(kstage.HandledEvent{Outcome: o}) }
	}
	handedOff := func(e kstage.HandedOffEvent) func(*kstage.Counters) {
		return func(c *kstage.Counters) { c.HandedOff(e) }
	}
	for _, tt := range []struct {
		name string
		tell func(*kstage.Counters)
		want kstage.CounterSnapshot
	}{
		{"published", func(c *kstage.Counters) { c.Published(kstage.PublishedEvent{}) }, kstage.CounterSnapshot{Published: 1}},
		{"publish failed", func(c *kstage.Counters) { c.Published(kstage.PublishedEvent{Err: errPure}) }, kstage.CounterSnapshot{PublishFailed: 1}},
		{"received", func(c *kstage.Counters) { c.Received(kstage.ReceivedEvent{Records: 7}) }, kstage.CounterSnapshot{Received: 7}},
		{"processed", handled(kstage.OutcomeProcessed), kstage.CounterSnapshot{Processed: 1}},
		{"retry here", handled(kstage.OutcomeRetryHere), kstage.CounterSnapshot{Failed: 1}},
		{"retry later", handled(kstage.OutcomeRetryLater), kstage.CounterSnapshot{Failed: 1}},
		{"hopped", handled(kstage.OutcomeHopped), kstage.CounterSnapshot{}},
		{"dead", handled(kstage.OutcomeDead), kstage.CounterSnapshot{Failed: 1}},
		{"dropped", handled(kstage.OutcomeDropped), kstage.CounterSnapshot{Failed: 1, Dropped: 1}},
		{"snoozed", handled(kstage.OutcomeSnoozed), kstage.CounterSnapshot{}},
		{"dead without a call", uncalled(kstage.OutcomeDead), kstage.CounterSnapshot{}},
		{"dropped without a call", uncalled(kstage.OutcomeDropped), kstage.CounterSnapshot{Dropped: 1}},
		{"skipped", handled(kstage.OutcomeSkipped), kstage.CounterSnapshot{Skipped: 1}},
		{"duplicate", handled(kstage.OutcomeDuplicate), kstage.CounterSnapshot{Duplicates: 1}},
		{"released", handled(kstage.OutcomeReleased), kstage.CounterSnapshot{Released: 1}},
		{"foreign", handled(kstage.OutcomeForeign), kstage.CounterSnapshot{Foreign: 1}},
		{"a retry acknowledged", handedOff(kstage.HandedOffEvent{}), kstage.CounterSnapshot{Retried: 1}},
		{"a dead letter acknowledged", handedOff(kstage.HandedOffEvent{Dead: true}), kstage.CounterSnapshot{SentToDLQ: 1}},
		{"one that failed", handedOff(kstage.HandedOffEvent{Dead: true, Err: errPure}), kstage.CounterSnapshot{}},
		{"one that came too late", handedOff(kstage.HandedOffEvent{Dead: true, Stale: true}), kstage.CounterSnapshot{Stale: 1}},
		{"a late one that failed", handedOff(kstage.HandedOffEvent{Stale: true, Err: errPure}), kstage.CounterSnapshot{}},
		{"given back", func(c *kstage.Counters) { c.Assigned(kstage.AssignedEvent{Released: 5}) }, kstage.CounterSnapshot{Released: 5}},
		{"committed", func(c *kstage.Counters) { c.Committed(kstage.CommittedEvent{}) }, kstage.CounterSnapshot{}},
		{"state", func(c *kstage.Counters) { c.StateChanged(kstage.StateEvent{}) }, kstage.CounterSnapshot{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var c kstage.Counters
			tt.tell(&c)
			require.Equal(t, tt.want, c.Snapshot())
		})
	}
	require.False(t, (&kstage.Counters{}).Durations(), "clock readings cost")
}

// However a record ends, it is counted once: the identity of CounterSnapshot.
func TestCountersIdentity(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var c kstage.Counters
		ends := []func(){
			func() { c.Handled(kstage.HandledEvent{Outcome: kstage.OutcomeProcessed}) },
			func() { c.Handled(kstage.HandledEvent{Outcome: kstage.OutcomeSkipped}) },
			func() { c.Handled(kstage.HandledEvent{Outcome: kstage.OutcomeDropped, Err: errPure}) },
			func() { c.Handled(kstage.HandledEvent{Outcome: kstage.OutcomeDuplicate}) },
			func() { c.Handled(kstage.HandledEvent{Outcome: kstage.OutcomeReleased}) },
			func() { c.Handled(kstage.HandledEvent{Outcome: kstage.OutcomeForeign}) },
			func() { c.Assigned(kstage.AssignedEvent{Released: 1}) },
			func() {
				c.Handled(kstage.HandledEvent{Outcome: kstage.OutcomeDead, Err: errPure})
				c.HandedOff(kstage.HandedOffEvent{Dead: true, Err: errPure}) // sent again
				c.HandedOff(kstage.HandedOffEvent{Dead: true})
			},
			func() {
				c.Handled(kstage.HandledEvent{Outcome: kstage.OutcomeRetryLater, Err: errPure})
				c.HandedOff(kstage.HandedOffEvent{})
			},
			func() { // given back while its copy was on its way
				c.Handled(kstage.HandledEvent{Outcome: kstage.OutcomeDead, Err: errPure})
				c.Assigned(kstage.AssignedEvent{Released: 1})
				c.HandedOff(kstage.HandedOffEvent{Dead: true, Stale: true})
			},
		}
		for _, i := range rapid.SliceOf(rapid.IntRange(0, len(ends)-1)).Draw(t, "ends") {
			c.Received(kstage.ReceivedEvent{Records: 1})
			for range rapid.IntRange(0, 2).Draw(t, "retries") {
				c.Handled(kstage.HandledEvent{Outcome: kstage.OutcomeRetryHere, Err: errPure})
			}
			ends[i]()
		}
		s := c.Snapshot()
		require.Equal(t, s.Received, s.Processed+s.Retried+s.SentToDLQ+s.Skipped+s.Dropped+s.Duplicates+s.Released+s.Foreign, "%+v", s)
	})
}

// Names are part of dashboards: each value has one of its own.
func TestEnumsHaveNames(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for o := kstage.OutcomeProcessed; o <= kstage.OutcomeForeign; o++ {
		require.NotContains(t, o.String(), "(", "outcome %d has no name", int(o))
		require.False(t, seen[o.String()])
		seen[o.String()] = true
	}
	require.Equal(t, "outcome(0)", kstage.Outcome(0).String())
	for k := kstage.PartitionsAssigned; k <= kstage.PartitionsLost; k++ {
		require.NotContains(t, k.String(), "(")
	}
}
