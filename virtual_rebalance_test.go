//go:build synctests

package kstage_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kstage/kstage"
)

// balancing is how a group rebalances.
type balancing struct {
	name string
	opts []kgo.Opt
}

func balancings() []balancing {
	return []balancing{
		{"cooperative", nil},
		{"eager", []kgo.Opt{kgo.Balancers(kgo.RangeBalancer())}},
	}
}

// Running handlers of a partition that leaves may end: none is cancelled, what
// they finished is committed, and the next owner goes on exactly there.
func TestRevokeDrainsRunningHandlers(t *testing.T) {
	t.Parallel()
	for _, b := range balancings() {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				c := newCrew(w, 2)
				for p := range int32(2) {
					w.fill(c.topic, p, 20, 1)
				}
				work := func(ctx context.Context, _ kstage.Message) error {
					select {
					case <-ctx.Done():
						return context.Cause(ctx)
					case <-time.After(4 * time.Second):
						return nil
					}
				}
				first := c.join("first", work, w.mainOptions(b.opts...))
				w.eventually(func() bool { return len(c.calls("")) == 2 })
				second := c.join("second", work, w.mainOptions(b.opts...))
				w.eventually(func() bool { return c.done() == 40 })
				require.NoError(t, first.stop())
				require.NoError(t, second.stop())

				require.NotEmpty(t, c.calls("second"))
				require.Len(t, c.calls(""), 40, "each record was handled once: all had ended before their partition left")
				for _, e := range first.told(kstage.PartitionsRevoked)[:1] {
					require.Positive(t, e.Drain)
					require.Less(t, e.Drain, 5*time.Second)
				}
				c.noOverlap()
				c.right()
				first.assertIdentity()
				second.assertIdentity()
			})
		})
	}
}

// A handler that does not end within the drain is cancelled with ErrRevoked and
// its record released; partitions that stay are read again within drain + 1 s of
// the callback's begin; nothing of a partition that left starts after it has.
func TestRevokeCancelsWhatOutlastsTheDrain(t *testing.T) {
	t.Parallel()
	const drain = 5 * time.Second
	for _, b := range balancings() {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				c := newCrew(w, 2)
				for p := range int32(2) {
					w.produce(record(c.topic, p, "quick", "0"), record(c.topic, p, "stuck", "1"))
				}
				var mu sync.Mutex
				causes := map[int32]error{}
				stuck := func(ctx context.Context, msg kstage.Message) error {
					if string(msg.Key()) != "stuck" {
						return nil
					}
					err := cancelled(ctx)
					mu.Lock()
					defer mu.Unlock()
					if causes[msg.Record.Partition] == nil {
						causes[msg.Record.Partition] = err
					}
					return err
				}
				supply := make(chan struct{})
				supplied := make(chan struct{})
				go func() {
					defer close(supplied)
					for i := 0; ; i++ {
						select {
						case <-supply:
							return
						case <-time.After(100 * time.Millisecond):
							w.produce(record(c.topic, 0, "quick", "n"), record(c.topic, 1, "quick", "n"))
						}
					}
				}()
				first := c.join("first", stuck, w.mainOptions(b.opts...))
				w.eventually(func() bool { return len(c.calls("first")) > 100 })
				second := c.join("second", func(context.Context, kstage.Message) error { return nil }, w.mainOptions(b.opts...))
				w.eventually(func() bool { return len(c.calls("second")) > 100 })
				close(supply)
				<-supplied

				went := first.told(kstage.PartitionsRevoked)[0]
				require.GreaterOrEqual(t, went.Drain, drain)
				require.Less(t, went.Drain, drain+100*time.Millisecond)
				mu.Lock()
				for _, p := range went.Partitions {
					require.ErrorIs(t, causes[p], kstage.ErrRevoked)
				}
				mu.Unlock()
				requireResumed(t, c.calls("first"), went, first.owns(), drain+time.Second)
				for _, s := range c.calls("first") {
					if !first.owns()[s.Partition] {
						require.False(t, s.At.After(went.at), "%v starts after its partition went at %v", s, went.at)
					}
				}
				require.NoError(t, second.stop())
				_ = first.stop()
				c.noOverlap()
				c.right()
				require.Positive(t, first.counts.Snapshot().Released)
				first.assertIdentity()
				second.assertIdentity()
			})
		})
	}
}

// The drain ends with the cancellation, not with the commit after it, which may
// take its time.
func TestRevokeCancelsBeforeItCommits(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		c := newCrew(w, 2)
		for p := range int32(2) {
			w.produce(record(c.topic, p, "quick", "0"), record(c.topic, p, "stuck", "1"))
		}
		var stuck causeOf
		first := c.join("first", stuck.handle, rare())
		w.eventually(func() bool { return c.done() == 2 })
		on := w.blackhole(ofKeys(kmsg.OffsetCommit))
		on.Store(true)
		second := c.join("second", nothing)
		w.eventually(func() bool { return len(first.told(kstage.PartitionsRevoked)) == 1 })
		on.Store(false)
		require.NotNil(t, stuck.cause.Load())
		require.ErrorIs(t, *stuck.cause.Load(), kstage.ErrRevoked)
		require.GreaterOrEqual(t, first.told(kstage.PartitionsRevoked)[0].at.Sub(*stuck.at.Load()), 3*time.Second)
		require.NoError(t, first.stop())
		w.eventually(func() bool { return len(second.owns()) == 2 && c.done() == 4 })
		require.NoError(t, second.stop())
		first.assertIdentity()
	})
}

// requireResumed requires that a partition that is still there was read within
// limit of the callback's begin: a record that was produced after it.
func requireResumed(t *testing.T, calls []start, went assignment, owned map[int32]bool, limit time.Duration) {
	t.Helper()
	began := went.at.Add(-went.Drain)
	require.NotEmpty(t, owned)
	for _, s := range calls {
		if owned[s.Partition] && s.produced.After(began) {
			require.LessOrEqual(t, s.At.Sub(began), limit)
			return
		}
	}
	require.Fail(t, "no record of a kept partition after the rebalance")
}

// After a clean stop and after drained revocations nothing finished is handled
// again that was not above an unfinished record, whatever keys and latencies.
func TestHandoverRepeatsNothingFinished(t *testing.T) {
	t.Parallel()
	for seed := range uint64(10) {
		b := balancings()[seed%2]
		t.Run(fmt.Sprintf("%s %d", b.name, seed), func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				rng := rand.New(rand.NewPCG(seed, 1))
				c := newCrew(w, 4)
				for p := range int32(4) {
					w.fill(c.topic, p, 100, 1+rng.IntN(20))
				}
				latency := int64(1 + rng.IntN(2000))
				work := func(_ context.Context, msg kstage.Message) error {
					after(time.Duration(mix(seed, msg)%latency) * time.Millisecond)
					return nil
				}
				opts := []kstage.ConsumerOption{w.mainOptions(b.opts...), kstage.WithWorkers(1 + rng.IntN(16))}
				first := c.join("first", work, opts...)
				after(time.Duration(rng.IntN(20_000)) * time.Millisecond)
				second := c.join("second", work, opts...)
				after(time.Duration(rng.IntN(20_000)) * time.Millisecond)
				require.NoError(t, first.stop())
				third := c.join("third", work, opts...)
				w.eventually(func() bool { return c.done() == 400 })
				require.NoError(t, second.stop())
				require.NoError(t, third.stop())
				for p := range int32(4) {
					require.EqualValues(t, 100, c.stored(p))
				}
				c.noOverlap()
				c.right()
				for _, h := range []*hand{first, second, third} {
					h.assertIdentity()
					require.Empty(t, h.owns())
					require.Empty(t, h.failedCommits())
				}
			})
		})
	}
}

// mix is a number of the record's own.
func mix(seed uint64, msg kstage.Message) int64 {
	x := seed<<40 ^ uint64(msg.Record.Partition)<<32 ^ uint64(msg.Record.Offset)
	x *= 0x9e3779b97f4a7c15
	return int64(x >> 33)
}
