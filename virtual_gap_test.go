//go:build synctests

package kstage_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kstage/kstage"
)

// requireGap checks that one loss was reported, once, with both offsets.
func (m *member) requireGap(expected, logStart int64) {
	m.w.t.Helper()
	r, ok := m.reason(kstage.HealthGap)
	require.True(m.w.t, ok)
	var gap *kstage.GapError
	require.ErrorAs(m.w.t, r.Err, &gap)
	require.Equal(m.w.t, &kstage.GapError{Topic: "orders", Expected: expected, LogStart: logStart}, gap)
	require.Equal(m.w.t, expected, r.Offset)
	require.True(m.w.t, m.Health().Ready && m.Health().Live)
	lines := m.w.logs.FilterMessageSnippet("deleted before").All()
	require.Len(m.w.t, lines, 1)
	require.Equal(m.w.t, expected, lines[0].ContextMap()["expected"])
	require.Equal(m.w.t, logStart, lines[0].ContextMap()["log_start"])
}

// What retention took below the group's offset is told once, for five minutes,
// and consumption goes on behind it.
func TestVirtualGapBeforeTheStart(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		w.fill(topic, 0, 100, 10)
		w.commit(topic, 0, 10)
		require.NoError(t, w.fake.DeleteRecords(topic, 0, 50))
		var j journal
		m := w.start(j.noting, append(opts, kstage.WithOrdering(kstage.ByPartition))...)
		w.eventually(func() bool { return w.groupOffset(topic, 0) == 100 })
		require.EqualValues(t, 50, j.offsets(0)[0])
		require.Len(t, j.offsets(0), 50)
		m.requireGap(10, 50)
		after(4 * time.Minute)
		m.requireGap(10, 50)
		after(2 * time.Minute)
		_, ok := m.reason(kstage.HealthGap)
		require.False(t, ok, "it is over")
	})
}

// The same while the partition is assigned and paused.
func TestVirtualGapWhilePaused(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		w.fill(topic, 0, 10, 10)
		var j journal
		m := w.start(j.noting, append(opts, kstage.WithOrdering(kstage.ByPartition))...)
		w.eventually(func() bool { return w.groupOffset(topic, 0) == 10 })
		m.Pause()
		after(time.Second)
		w.fill(topic, 0, 90, 10)
		require.NoError(t, w.fake.DeleteRecords(topic, 0, 60))
		m.Resume()
		w.eventually(func() bool { return w.groupOffset(topic, 0) == 100 })
		require.EqualValues(t, 60, j.offsets(0)[10])
		m.requireGap(10, 60)
	})
}

// What is deleted below the group's offset is no loss, and a new group has lost
// nothing.
func TestVirtualNoGap(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name      string
		committed int64 // -1: none
		logStart  int64
		first     int64
	}{
		{"new group", -1, 50, 50},
		{"offset at the log's start", 50, 50, 50},
		{"offset above the log's start", 70, 50, 70},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				topic, opts := w.ladder(1)
				w.fill(topic, 0, 100, 10)
				if c.committed >= 0 {
					w.commit(topic, 0, c.committed)
				}
				require.NoError(t, w.fake.DeleteRecords(topic, 0, c.logStart))
				var j journal
				m := w.start(j.noting, append(opts, kstage.WithOrdering(kstage.ByPartition), kstage.WithOnGap(kstage.StopOnGap))...)
				w.eventually(func() bool { return w.groupOffset(topic, 0) == 100 })
				require.Equal(t, c.first, j.offsets(0)[0])
				_, gap := m.reason(kstage.HealthGap)
				require.False(t, gap)
				require.NoError(t, m.stop())
			})
		})
	}
}

// Under StopOnGap nothing behind the gap is handled or committed: Run ends with
// the loss, and so does the next one.
func TestVirtualStopOnGap(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		opts = append(opts, kstage.WithOnGap(kstage.StopOnGap))
		w.fill(topic, 0, 10, 10)
		var j journal
		m := w.start(j.noting, opts...)
		w.eventually(func() bool { return w.groupOffset(topic, 0) == 10 })
		m.Pause()
		after(time.Second)
		w.fill(topic, 0, 90, 10)
		require.NoError(t, w.fake.DeleteRecords(topic, 0, 60))
		m.Resume()
		for range 2 {
			var gap *kstage.GapError
			require.ErrorAs(t, m.wait(), &gap)
			require.Equal(t, &kstage.GapError{Topic: topic, Expected: 10, LogStart: 60}, gap)
			require.False(t, m.Health().Live)
			m = w.start(j.noting, opts...)
		}
		require.Error(t, m.wait())
		require.Equal(t, 10, j.len())
		require.EqualValues(t, 10, w.groupOffset(topic, 0))
	})
}

// A gap in one partition stops no other under ContinueOnGap, and is told for each.
func TestVirtualGapsOfTwoPartitions(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(3)
		for p := range int32(3) {
			w.fill(topic, p, 20, 5)
			w.commit(topic, p, 5)
		}
		require.NoError(t, w.fake.DeleteRecords(topic, 0, 10))
		require.NoError(t, w.fake.DeleteRecords(topic, 2, 20)) // all that was there
		m := w.start(func(context.Context, kstage.Message) error { return nil }, opts...)
		w.eventually(func() bool { return m.counts.Snapshot().Processed == 10+15 })
		w.fill(topic, 2, 1, 1)
		w.eventually(func() bool { return m.counts.Snapshot().Processed == 10+15+1 })
		told := map[int32]error{}
		for _, r := range m.Health().Reasons {
			if r.Kind == kstage.HealthGap {
				told[r.Partition] = r.Err
			}
		}
		require.Equal(t, map[int32]error{
			0: &kstage.GapError{Topic: topic, Partition: 0, Expected: 5, LogStart: 10},
			2: &kstage.GapError{Topic: topic, Partition: 2, Expected: 5, LogStart: 20},
		}, told)
	})
}
