//go:build synctests

package kstage_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kstage/kstage"
)

func TestAMissingStageEndsRunAfter30s(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		_, opts := w.ladder(1)
		w.topic("g-retry-1", 1)
		start := time.Now()
		m := w.start(handleNothing, append(opts, kstage.WithRetryStages(time.Second, time.Minute))...)
		after(15 * time.Second)
		require.Equal(t, []string{"not-joined g", "not-joined g-retry", "topic-missing g-retry-2"}, reasonsOf(m.Health()))
		var te *kstage.TopologyError
		require.ErrorAs(t, m.wait(), &te)
		require.Contains(t, te.Error(), "g-retry-2: it does not exist")
		require.Less(t, time.Since(start), 32*time.Second)
	})
}

func TestAStageThatLosesRecordsEndsRunAtOnce(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		_, opts := w.ladder(1)
		w.topic("g-retry-1", 1, "retention.ms", "3600000")
		w.topic("g-retry-2", 1, "cleanup.policy", "compact")
		start := time.Now()
		err := w.start(handleNothing, append(opts, kstage.WithRetryStages(time.Second, time.Minute))...).wait()
		require.ErrorContains(t, err, "g-retry-1: retention.ms 3600000: records can be deleted before they are retried")
		require.ErrorContains(t, err, "g-retry-2: cleanup.policy is compact: compaction would delete waiting records")
		require.Less(t, time.Since(start), time.Second)
	})
}

func TestStartCreatesTheStages(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic := w.topic("orders", 4)
		var j journal
		m := w.start(alwaysFails(&j), kstage.WithTopics(topic), kstage.WithRetryStages(time.Second, time.Minute), once(), kstage.WithTopicProvisioning(kstage.CreateTopics))
		w.eventually(func() bool { return m.Health().Ready })
		for name, retention := range map[string]string{"g-retry-1": "604801000", "g-retry-2": "604860000"} {
			n, _ := w.partitions(name)
			require.Equal(t, 4, n)
			require.Equal(t, retention, w.config(name, "retention.ms"))
			require.Equal(t, "1064972", w.config(name, "max.message.bytes"))
		}
		w.fill(topic, 3, 5, 5)
		w.eventually(func() bool { return m.counts.Snapshot().SentToDLQ == 5 })
		require.Len(t, w.read("g-retry-2")[3], 5)
		require.NoError(t, m.stop())
	})
}

// A stage's topic is deleted and made again while the consumer runs: it is read
// from its start, nothing of the old one is committed to it, and copies arrive.
func TestARecreatedStageIsReadFromItsStart(t *testing.T) {
	t.Parallel()
	for name, gone := range map[string]time.Duration{"at once": 0, "after two minutes": 2 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) { recreateStage(w, gone) })
		})
	}
}

// slowFetches is a hook. While one topic of several is gone the embedded broker answers
// each fetch at once (a real one waits): if that took no time, none would pass.
type slowFetches struct{}

// OnBrokerRead implements kgo.HookBrokerRead, on the goroutine that reads answers.
func (slowFetches) OnBrokerRead(_ kgo.BrokerMetadata, key int16, _ int, _, _ time.Duration, _ error) {
	if kmsg.Key(key) == kmsg.Fetch {
		after(20 * time.Millisecond)
	}
}

func recreateStage(w *world, gone time.Duration) {
	t := w.t
	slow := kstage.WithClientOptions(func(kstage.ClientRole) []kgo.Opt {
		return append(slices.Clone(w.reach), kgo.WithHooks(slowFetches{}))
	})
	topic, opts := w.ladder(2)
	stages := w.stages(2, 5*time.Second, time.Hour)
	var mu sync.Mutex
	calls := map[string]int{}
	m := w.start(func(_ context.Context, msg kstage.Message) error {
		mu.Lock()
		defer mu.Unlock()
		calls[msg.Record.Topic]++
		if msg.Stage() == 0 {
			return errNotYet
		}
		return nil
	}, append(opts, stages, once(), slow)...)
	called := func(topic string) int { mu.Lock(); defer mu.Unlock(); return calls[topic] }
	w.fill(topic, 0, 10, 10)
	w.eventually(func() bool { return called("g-retry-1") == 10 })
	after(2 * time.Second)
	require.EqualValues(t, 10, w.committedBy("g-retry", "g-retry-1", 0))
	require.NoError(t, w.fake.DeleteTopic("g-retry-1"))
	after(gone)
	if gone > 0 {
		require.Equal(t, []string{"topic-missing g-retry-1"}, reasonsOf(m.Health()))
		require.False(t, m.Health().Ready)
		w.fill(topic, 1, 3, 3) // their copies have nowhere to go, yet
		after(time.Minute)
		require.True(t, m.is(kstage.HealthHandOffFailing))
		require.EqualValues(t, -1, w.committed(topic, 1))
	}
	require.NoError(t, w.fake.CreateTopic("g-retry-1", 2, nil))
	w.cl.PurgeTopicsFromClient("g-retry-1")
	w.produce(retryCopy("g-retry-1", 0, "k", time.Now())) // below the old one's committed offset
	if gone == 0 {
		after(time.Minute)
		w.fill(topic, 1, 3, 3)
	}
	w.eventually(func() bool { return called("g-retry-1") == 14 })
	after(65 * time.Second)
	require.Equal(t, 14, called("g-retry-1"))
	require.Equal(t, 13, called(topic))
	require.EqualValues(t, 1, w.committedBy("g-retry", "g-retry-1", 0))
	require.EqualValues(t, 3, w.committedBy("g-retry", "g-retry-1", 1))
	require.EqualValues(t, 3, w.committed(topic, 1))
	require.Equal(t, []string{"topic-recreated g-retry-1"}, reasonsOf(m.Health()))
	require.True(t, m.Health().Ready)
	m.assertIdentity()
	require.NoError(t, m.stop())
}

// A pattern that would match everything leaves the ladder's own topics to it, those
// of stages that are no more included.
func TestAPatternLeavesTheStagesToTheirIntake(t *testing.T) {
	t.Parallel()
	for name, named := range map[string]kstage.ConsumerOption{"default names": kstage.WithRetryTopicPrefix(""), "a prefix": kstage.WithRetryTopicPrefix("again")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				t := w.t
				prefix := map[string]string{"default names": "g-retry", "a prefix": "again"}[name]
				for _, topic := range []string{"orders", "g-dlq", prefix + "-1", prefix + "-2", "g-retry-7"} {
					w.topic(topic, 1)
				}
				if prefix == "again" {
					w.topic("again-9", 1)
				}
				var j journal
				m := w.start(alwaysFails(&j), kstage.WithTopicPattern(".*"), named, kstage.WithRetryStages(time.Second, time.Second), once())
				w.eventually(func() bool { return m.Health().Ready }) // it would refuse to start while a removed stage holds records
				w.produce(record("g-retry-7", 0, "k", "v"))
				w.fill("orders", 0, 5, 5)
				w.eventually(func() bool { return m.counts.Snapshot().SentToDLQ == 5 })
				after(time.Minute)
				times := map[string]int{}
				for _, d := range j.all() {
					times[d.Topic]++
				}
				require.Equal(t, map[string]int{"orders": 5, prefix + "-1": 5, prefix + "-2": 5}, times)
				for _, s := range m.Stats().Partitions {
					require.Contains(t, []string{"orders", prefix + "-1", prefix + "-2"}, s.Topic)
				}
				require.NoError(t, m.stop())
			})
		})
	}
}
