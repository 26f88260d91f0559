//go:build synctests

package kstage_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kstage/kstage"
)

// The memory budget is one for all partitions; one that holds nothing may always
// take a fetch, and the others go on when it is free again.
func TestVirtualBudgetLetsEachPartitionTakeOneFetch(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		const parts = 8
		topic, opts := w.ladder(parts)
		value := fmt.Sprintf("%01000d", 0)
		for p := range int32(parts) {
			w.batches(topic, p, 5, 2, value)
		}
		stuck := make(chan struct{})
		var c tally
		m := w.start(func(_ context.Context, msg kstage.Message) error {
			if msg.Record.Partition == 0 {
				<-stuck
			}
			return nil
		}, append(opts, kstage.WithMetrics(&c), kstage.WithMemoryBudget(2_000), smallFetches())...)
		w.eventually(func() bool { return c.Snapshot().Processed == 10*(parts-1) })
		after(time.Second)
		for _, s := range m.Stats().Partitions {
			if s.Partition == 0 {
				require.Equal(t, []string{"backpressure"}, s.Paused)
				require.LessOrEqual(t, s.Bytes, int64(2_000)+2*c.bytes.Load())
			} else {
				require.Empty(t, s.Paused, "it holds nothing")
			}
		}
		close(stuck)
		w.eventually(func() bool { return c.Snapshot().Processed == 10*parts })
	})
}

// A window that filled by itself is resumed when it is half empty, though others
// hold more than half of a budget that was never spent.
func TestVirtualBudgetThatWasNotSpentHoldsNobodyBack(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(2)
		w.batches(topic, 0, 8, 10, "0123456789")
		stuck, release := make(chan struct{}), make(chan struct{}, 1000)
		m := w.start(func(_ context.Context, msg kstage.Message) error {
			if msg.Record.Partition == 0 {
				<-stuck
			} else {
				<-release
			}
			return nil
		}, append(opts, kstage.WithWindow(kstage.Window{Records: 100}), kstage.WithMemoryBudget(2_200), smallFetches(), kstage.WithWorkers(200))...)
		w.t.Cleanup(func() { close(stuck); close(release) })
		holds := func(p int32) (n int64) {
			for _, l := range m.Loads() {
				if l.Partition == p {
					n = l.Records
				}
			}
			return n
		}
		w.eventually(func() bool { return holds(0) == 80 })
		w.batches(topic, 1, 20, 10, "v")
		w.eventually(func() bool { return holds(1) >= 100 })
		after(time.Second)
		for range holds(1) - 50 {
			release <- struct{}{}
		}
		after(time.Second)
		require.GreaterOrEqual(t, holds(1), int64(60))
	})
}

// Windows that are smaller than what is fetched do not make the client decode
// records again and again.
func TestVirtualSmallWindowsDecodeLittleTwice(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) { decodeSmallWindows(w, 4, 2*4) })
}

// However little is held, what is finished above a stuck head is bounded, too.
func TestVirtualSpanBoundsWhatIsFinishedAboveTheHead(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		w.batches(topic, 0, 100, 10, "v")
		release := make(chan struct{})
		m := w.start(func(_ context.Context, msg kstage.Message) error {
			if msg.Record.Offset == 5 {
				<-release
			}
			return nil
		}, append(opts, kstage.WithWindow(kstage.Window{Span: 200}), smallFetches())...)
		w.eventually(func() bool { return m.Pressed() == 1 })
		after(time.Minute)
		load := m.Loads()[0]
		require.EqualValues(t, 10, load.Records)
		require.True(t, load.Span >= 200 && load.Span <= 210, "%d", load.Span)
		close(release)
		w.eventually(func() bool { return m.counts.Snapshot().Processed == 1000 })
	})
}
