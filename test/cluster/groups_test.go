//go:build cluster

package cluster_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/kstage/kstage"
)

func TestMembersComeAndGo(t *testing.T) {
	comeAndGo(t, nil, nil)
}

func TestMembersOfANextGenGroupComeAndGo(t *testing.T) {
	comeAndGo(t, []kstage.ConsumerOption{kstage.WithNextGenGroup()}, []kstage.ConsumerOption{kstage.WithNextGenGroup()})
}

func TestRollingMoveToANextGenGroup(t *testing.T) {
	comeAndGo(t, nil, []kstage.ConsumerOption{kstage.WithNextGenGroup()})
}

// comeAndGo replaces both members of a group under load, one after the other: nothing is
// lost, and what was handed over in order is not handled again.
func comeAndGo(t *testing.T, before, then []kstage.ConsumerOption) {
	t.Helper()
	w := newWorld(t)
	inOrder := kstage.WithOrdering(kstage.ByPartition) // nothing finishes above an unfinished record
	l := w.underLoad(append(before, inOrder)...)
	for i := range 2 {
		fresh := w.start(l.handler, append(then, inOrder, kstage.WithTopics(l.topic))...)
		w.within(time.Minute, func() bool { return fresh.counts.Snapshot().Processed > 0 })
		require.NoError(t, l.ours[i].stop())
		l.ours = append(l.ours, fresh)
		after(2 * time.Second)
	}
	l.finish()
	_, repeated := l.seen.distinct()
	require.Zero(t, repeated)
}

func TestSecondProcessWithTheSameInstanceID(t *testing.T) {
	w := newWorld(t)
	topic := w.topic("orders", 1)
	w.ladder(1, 0)
	nothing := func(context.Context, kstage.Message) error { return nil }
	first := w.start(nothing, kstage.WithTopics(topic), kstage.WithInstanceID("one"))
	w.fill(topic, 0, 1)
	w.within(time.Minute, func() bool { return first.counts.Snapshot().Processed == 1 })
	second := w.start(nothing, kstage.WithTopics(topic), kstage.WithInstanceID("one"))
	select {
	case <-first.done:
	case <-time.After(time.Minute):
		t.Fatal("the first member was not fenced")
	}
	require.ErrorIs(t, first.err, kerr.FencedInstanceID)
	require.ErrorContains(t, first.err, "WithInstanceID")
	w.fill(topic, 0, 1)
	w.within(time.Minute, func() bool { return second.counts.Snapshot().Processed == 1 })
	require.NoError(t, second.stop())
}
