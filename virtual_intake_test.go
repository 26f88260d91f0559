//go:build synctests

package kstage_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kstage/kstage"
)

// noting is a handler that only takes notes.
func (j *journal) noting(_ context.Context, msg kstage.Message) error {
	j.note(msg)
	return nil
}

// offsets lists the offsets of a partition in the order of their calls.
func (j *journal) offsets(partition int32) (os []int64) {
	for _, d := range j.all() {
		if d.Partition == partition {
			os = append(os, d.Offset)
		}
	}
	return os
}

// groupOffset is the group's offset of a partition; -1: none, or there is no group yet.
func (w *world) groupOffset(topic string, partition int32) int64 {
	w.t.Helper()
	if _, err := w.adm.FetchOffsets(w.t.Context(), w.name("g")); errors.Is(err, kerr.GroupIDNotFound) {
		return -1
	}
	return w.committed(topic, partition)
}

// transaction writes n records to a partition and ends it.
func (w *world) transaction(topic string, n int, end kgo.TransactionEndTry) {
	w.t.Helper()
	cl := w.client(kgo.TransactionalID("t"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	defer cl.Close()
	require.NoError(w.t, cl.BeginTransaction())
	rs := make([]*kgo.Record, n)
	for i := range rs {
		rs[i] = record(topic, 0, "k", fmt.Sprint(i))
	}
	require.NoError(w.t, cl.ProduceSync(w.t.Context(), rs...).FirstErr())
	require.NoError(w.t, cl.EndTransaction(w.t.Context(), end))
}

// Markers and aborted records leave holes that are no loss: nothing is reported,
// and what is committed is the offset after the last record that was delivered.
func TestVirtualTransactions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name      string
		isolation kstage.Isolation
		want      []int64
		committed int64
	}{ // 0 1 2 marker 4 5 marker(aborted) 7 marker 9 10 marker(aborted)
		{"read committed", kstage.ReadCommitted, []int64{0, 1, 2, 7}, 8},
		{"read uncommitted", kstage.ReadUncommitted, []int64{0, 1, 2, 4, 5, 7, 9, 10}, 11},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				topic, opts := w.ladder(1)
				w.transaction(topic, 3, kgo.TryCommit)
				w.transaction(topic, 2, kgo.TryAbort)
				w.transaction(topic, 1, kgo.TryCommit)
				w.transaction(topic, 2, kgo.TryAbort)
				var j journal
				opts = append(opts, kstage.WithIsolation(c.isolation), kstage.WithOrdering(kstage.ByPartition))
				m := w.start(j.noting, opts...)
				w.eventually(func() bool { return w.groupOffset(topic, 0) == c.committed })
				require.Equal(t, c.want, j.offsets(0))
				require.NoError(t, m.stop())

				// the next member starts behind the last record, in front of a marker
				w.transaction(topic, 1, kgo.TryCommit) // 12
				m = w.start(j.noting, opts...)
				w.eventually(func() bool { return w.groupOffset(topic, 0) == 13 })
				require.Equal(t, append(c.want, 12), j.offsets(0))
				require.NoError(t, m.stop())
				_, gap := m.reason(kstage.HealthGap)
				require.False(t, gap)
				require.Zero(t, w.logs.FilterMessageSnippet("deleted before").Len())
			})
		})
	}
}

// Compaction leaves holes that are no loss. (The first record stays: the embedded
// broker, unlike others, moves the log's start to what compaction leaves.)
func TestVirtualCompaction(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic := w.topic("orders", 1, "cleanup.policy", "compact")
		w.topic("g-dlq", 1)
		w.produce(record(topic, 0, "first", "v"))
		var j journal
		m := w.start(j.noting, kstage.WithTopics(topic), kstage.WithOrdering(kstage.ByPartition))
		w.eventually(func() bool { return w.groupOffset(topic, 0) == 1 })
		m.Pause()
		after(time.Second)
		for range 40 {
			w.fill(topic, 0, 5, 5)
		}
		w.fake.Compact()
		m.Resume()
		w.eventually(func() bool { return w.groupOffset(topic, 0) == 201 })
		os := j.offsets(0)
		require.Less(t, len(os), 20, "it was compacted")
		require.Greater(t, os[1], int64(1), "with a hole in front of what comes next")
		require.True(t, slices.IsSorted(os))
		_, gap := m.reason(kstage.HealthGap)
		require.False(t, gap)
	})
}

// Where a group begins that has no offset.
func TestVirtualStartOffset(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		start kstage.StartOffset
		want  []int64
	}{{kstage.Earliest, []int64{0, 1, 2, 3, 4, 5}}, {kstage.Latest, []int64{5}}} {
		t.Run(fmt.Sprint(c.start), func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				topic, opts := w.ladder(1)
				w.fill(topic, 0, 5, 1)
				var j journal
				m := w.start(j.noting, append(opts, kstage.WithStartOffset(c.start))...)
				w.eventually(func() bool { return len(m.Stats().Partitions) == 1 })
				after(time.Second)
				w.fill(topic, 0, 1, 1)
				w.eventually(func() bool { return w.groupOffset(topic, 0) == 6 })
				require.Equal(t, c.want, j.offsets(0))
				_, gap := m.reason(kstage.HealthGap)
				require.False(t, gap)
			})
		})
	}
}

// An offset beyond the log's end, as after the topic was made anew, is reset; the
// group's offset goes back with it.
func TestVirtualCommittedBeyondTheEnd(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		w.fill(topic, 0, 3, 1)
		w.commit(topic, 0, 100)
		var j journal
		m := w.start(j.noting, opts...)
		w.eventually(func() bool { return w.groupOffset(topic, 0) == 3 })
		require.Equal(t, []int64{0, 1, 2}, j.offsets(0))
		_, gap := m.reason(kstage.HealthGap)
		require.False(t, gap)
		require.NoError(t, m.stop())
		m.assertIdentity()
	})
}

// commit sets the group's offset of a partition.
func (w *world) commit(topic string, partition int32, offset int64) {
	w.t.Helper()
	os := kadm.Offsets{}
	os.Add(kadm.Offset{Topic: topic, Partition: partition, At: offset, LeaderEpoch: -1})
	require.NoError(w.t, w.adm.CommitAllOffsets(w.t.Context(), w.name("g"), os))
}

// Each record is committed with the epoch it was written in, also where one fetch
// brings records of two.
func TestVirtualTwoLeaderEpochsInOneFetch(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		w.fill(topic, 0, 4, 1)
		require.NoError(t, w.fake.MoveTopicPartition(topic, 0, (w.fake.LeaderFor(topic, 0)+1)%2))
		w.fill(topic, 0, 4, 1)
		commits := w.spyOnCommits()
		blocked := make(chan struct{}, 8)
		m := w.start(func(context.Context, kstage.Message) error { <-blocked; return nil },
			append(opts, kstage.WithOrdering(kstage.ByPartition))...)
		for _, c := range []struct{ n, offset, epoch int }{{3, 3, 0}, {1, 4, 0}, {1, 5, 1}, {3, 8, 1}} {
			for range c.n {
				blocked <- struct{}{}
			}
			w.eventually(func() bool { return w.groupOffset(topic, 0) == int64(c.offset) })
			last := commits.last()
			require.EqualValues(t, c.offset, last.Offset)
			require.EqualValues(t, c.epoch, last.LeaderEpoch)
			require.Equal(t, "kstage/1", *last.Metadata)
		}
		require.EqualValues(t, 8, m.counts.Snapshot().Received)
	}, kfake.NumBrokers(2), kfake.Ports(9001, 9002))
}

// commitSpy notes what is committed.
type commitSpy struct {
	ch chan kmsg.OffsetCommitRequestTopicPartition
}

func (w *world) spyOnCommits() *commitSpy {
	s := &commitSpy{ch: make(chan kmsg.OffsetCommitRequestTopicPartition, 100)}
	w.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit}, Count: -1, Observe: true, When: func(r kmsg.Request) bool {
		for _, t := range r.(*kmsg.OffsetCommitRequest).Topics {
			for _, p := range t.Partitions {
				s.ch <- p
			}
		}
		return false
	}})
	return s
}

// last is the newest commit.
func (s *commitSpy) last() (p kmsg.OffsetCommitRequestTopicPartition) {
	for {
		select {
		case p = <-s.ch:
		default:
			return p
		}
	}
}

// A log that was cut back is read again from there: what was queued of the old
// one is dropped, what runs of it ends without effect, and each record counts once.
// (The broker cannot tell where an epoch ended that nothing was written after:
// the client takes it for a loss and goes back.)
func TestVirtualTruncation(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		w.fill(topic, 0, 20, 20)
		var j journal
		release := make(chan struct{})
		m := w.start(func(ctx context.Context, msg kstage.Message) error {
			d := j.note(msg)
			if d.Offset >= 10 && j.times(0)[0] == 1 {
				select { // of the old log: it ends late
				case <-release:
				case <-ctx.Done():
					require.ErrorIs(t, context.Cause(ctx), kstage.ErrLost)
				}
			}
			return nil
		}, append(opts, kstage.WithWorkers(5))...)
		w.eventually(func() bool { return w.groupOffset(topic, 0) == 10 })
		require.NoError(t, w.fake.MoveTopicPartition(topic, 0, (w.fake.LeaderFor(topic, 0)+1)%2))
		w.eventually(func() bool { return j.times(0)[0] == 2 && m.Stats().Partitions[0].Committed == 20 })
		require.EqualValues(t, 20, w.groupOffset(topic, 0))
		close(release)
		for o, n := range j.times(0) {
			if o < 15 {
				require.Equal(t, 2, n, "offset %d", o)
			} else {
				require.Equal(t, 1, n, "offset %d was queued: dropped", o)
			}
		}
		require.Equal(t, []kstage.PartitionStats{{
			Topic: topic, Committed: 20, Head: -1, HighestFinished: 19, LogEnd: 20,
		}}, m.Stats().Partitions)
		require.NoError(t, m.stop())
		require.NotZero(t, w.logs.FilterMessageSnippet("the partition's log was cut back").Len())
		require.EqualValues(t, 40, m.counts.Snapshot().Received)
		require.NotZero(t, m.counts.Snapshot().Released)
		m.assertIdentity()
	}, kfake.NumBrokers(2), kfake.Ports(9001, 9002))
}

// A pattern takes topics that come later, and never the group's own.
func TestVirtualTopicPattern(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		w.topic("g-dlq", 1)
		w.topic("g-retry-1", 1)
		w.topic("g-first", 1)
		w.topic("elsewhere", 1)
		var j journal
		m := w.start(j.noting, kstage.WithTopicPattern("^g-|^__"))
		for _, topic := range []string{"g-first", "g-dlq", "g-retry-1", "elsewhere"} {
			w.fill(topic, 0, 1, 1)
		}
		w.eventually(func() bool { return j.len() == 1 })
		w.topic("g-second", 1)
		w.fill("g-second", 0, 1, 1)
		made := time.Now()
		w.eventually(func() bool { return j.len() == 2 })
		require.LessOrEqual(t, time.Since(made), 31*time.Second)
		after(2 * time.Minute)
		topics := map[string]int{}
		for _, d := range j.all() {
			topics[d.Topic]++
		}
		require.Equal(t, map[string]int{"g-first": 1, "g-second": 1}, topics)
		require.Len(t, m.Stats().Partitions, 2)
		_, missing := m.reason(kstage.HealthTopicMissing)
		require.False(t, missing)
	})
}
