//go:build synctests

package kstage_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kstage/kstage"
)

// waitingInStage2 leaves one record waiting in the second of two stages, and one
// that was handled.
func waitingInStage2(w *world, opts []kstage.ConsumerOption) {
	topic := w.name("orders")
	w.produce(record(topic, 0, "fails", "v"), record(topic, 0, "recovers", "v"))
	m := w.start(func(_ context.Context, msg kstage.Message) error {
		if string(msg.Key()) == "fails" || msg.Stage() < 2 {
			return errNotYet
		}
		return nil
	}, append(opts, once())...)
	w.within(time.Hour, func() bool { s := m.counts.Snapshot(); return s.Processed == 1 && s.SentToDLQ == 1 })
	w.produce(record(topic, 0, "fails", "v"))
	w.within(time.Hour, func() bool { return m.counts.Snapshot().Retried == 6 })
	require.NoError(w.t, m.stop())
}

// refused starts a consumer that is to end by itself, and returns its error.
func (w *world) refused(opts []kstage.ConsumerOption) error {
	m := w.start(alwaysFails(&journal{}), opts...)
	w.eventually(func() bool {
		select {
		case <-m.done:
			return true
		default:
			return false
		}
	})
	return m.wait()
}

// A stage that is taken away while records wait in it would never be read again.
func TestARemovedStageWithRecordsRefusesTheStart(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		_, opts := w.ladder(1)
		both := append(opts, w.stages(1, time.Second, time.Minute))
		waitingInStage2(w, both)
		for name, fewer := range map[string][]kstage.ConsumerOption{
			"one of two":                  {kstage.WithRetryStages(time.Second)},
			"all":                         {},
			"known by what was committed": {kstage.WithRetryTopicPrefix("g-retry")},
		} {
			err := w.refused(append(opts, fewer...))
			var te *kstage.TopologyError
			require.ErrorAs(w.t, err, &te, name)
			require.Len(w.t, slices.DeleteFunc(te.Problems, func(p kstage.TopicProblem) bool { return p.Warning }), 1, name)
			require.Equal(w.t, "g-retry-2: its stage is not configured any more, and 1 of its records have not been handled; "+
				"put the stage back (WithRetryStages) until it is empty, or delete the topic", te.Problems[0].String(), name)
		}

		var j journal
		m := w.start(func(_ context.Context, msg kstage.Message) error { j.note(msg); return nil }, both...)
		w.within(time.Hour, func() bool { return j.len() == 1 })
		require.NoError(w.t, m.stop(), "put back, it is emptied")
		m = w.start(alwaysFails(&journal{}), opts...)
		w.eventually(func() bool { return m.Health().Ready })
		require.NoError(w.t, m.stop(), "and may then be removed")
	})
}

// Also where the retry group has not read a single record of it, or its offsets
// have expired.
func TestARemovedStageThatWasNeverReadRefusesTheStart(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		_, opts := w.ladder(1)
		both := append(opts, w.stages(1, time.Second, time.Minute))
		waitingInStage2(w, both)
		_, err := w.adm.DeleteGroup(w.t.Context(), "g-retry")
		require.NoError(w.t, err)
		err = w.refused(opts)
		require.ErrorContains(w.t, err, "g-retry-1: its stage is not configured any more, and 3 of its records")
		require.ErrorContains(w.t, err, "g-retry-2: its stage is not configured any more, and 3 of its records")
	})
}

// Topics of a shared prefix may be another group's stages: that is a warning.
func TestAStageOfOthersIsNoReasonToRefuse(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		w.topic("shared-1", 1)
		w.topic("shared-2", 1)
		w.produce(record("shared-2", 0, "k", "another group's"))
		shared := append(opts, kstage.WithRetryTopicPrefix("shared"), kstage.WithRetryStages(time.Second), once())
		var j journal
		m := w.start(alwaysFails(&j), shared...)
		w.produce(record(topic, 0, "k", "v"))
		w.eventually(func() bool { return m.counts.Snapshot().SentToDLQ == 1 })
		require.NoError(w.t, m.stop())
		require.Len(w.t, w.logs.FilterMessageSnippet("its retry group has never read the 1 records").All(), 1)
	})
}

func TestTrustTopicsLooksForNoRemovedStages(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		_, opts := w.ladder(1)
		waitingInStage2(w, append(opts, w.stages(1, time.Second, time.Minute)))
		m := w.start(func(context.Context, kstage.Message) error { return errors.New("no") }, append(opts, kstage.WithTopicProvisioning(kstage.TrustTopics))...)
		w.eventually(func() bool { return m.Health().Ready })
		require.NoError(w.t, m.stop())
	})
}
