package kstage_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
)

// A Consumer runs once, also where its first Run has ended.
func TestRunRunsOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, opts := w.ladder(1)
	m := w.start(func(context.Context, kstage.Message) error { return nil }, opts...)
	w.eventually(func() bool { return m.Health().Ready })
	require.ErrorIs(t, m.Run(t.Context()), kstage.ErrAlreadyRun)
	require.True(t, m.Health().Ready, "the first is not disturbed")
	require.NoError(t, m.stop())
	require.ErrorIs(t, m.Run(t.Context()), kstage.ErrAlreadyRun)
	require.False(t, m.Health().Ready)
}

// A context that has ended before Run began: nothing is read, nothing left behind.
func TestRunWithEndedContext(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic, opts := w.ladder(1)
	w.fill(topic, 0, 3, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c, err := kstage.NewConsumer(
		kstage.HandlerFunc(func(context.Context, kstage.Message) error { t.Error("a record was handled"); return nil }),
		append([]kstage.ConsumerOption{
			kstage.WithBrokers(w.brokers...),
			kstage.WithClientOptions(func(kstage.ClientRole) []kgo.Opt { return w.reach }),
			kstage.WithGroup(w.name("g")),
		}, opts...)...)
	require.NoError(t, err)
	began := time.Now()
	require.NoError(t, c.Run(ctx))
	require.Less(t, time.Since(began), 5*time.Second)
	require.False(t, c.Health().Ready)
	require.Empty(t, c.Stats().Partitions)
}

// A handover between members, in real time: what one finished no other handles,
// and the partition comes without waiting for the first one's session to run out.
func TestHandover(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic, opts := w.ladder(2)
	for p := range int32(2) {
		w.fill(topic, p, 50, 5)
	}
	var first, second journal
	noting := func(j *journal) kstage.HandlerFunc {
		return func(_ context.Context, msg kstage.Message) error { j.note(msg); return nil }
	}
	m := w.start(noting(&first), opts...)
	w.eventually(func() bool { return first.len() == 100 })
	require.NoError(t, m.stop())
	for p := range int32(2) {
		require.EqualValues(t, 50, w.committed(topic, p))
		w.fill(topic, p, 10, 5)
	}
	began := time.Now()
	m2 := w.start(noting(&second), opts...)
	w.eventually(func() bool { return second.len() == 20 })
	require.Less(t, time.Since(began), 20*time.Second)
	require.NoError(t, m2.stop())
	for _, d := range second.all() {
		require.GreaterOrEqual(t, d.Offset, int64(50))
	}
	m.assertIdentity()
	m2.assertIdentity()
}

// A parked record whose turn comes just as its partition goes is told of once: it
// is given back, and its handler is not called.
func TestForgottenRecordDoesNotRun(t *testing.T) {
	t.Parallel()
	c, err := kstage.NewConsumer(
		kstage.HandlerFunc(func(context.Context, kstage.Message) error { t.Error("it ran"); return nil }),
		kstage.WithBrokers("nowhere:9092"), kstage.WithGroup("g"), kstage.WithTopics("orders"))
	require.NoError(t, err)
	told, givenUp := kstage.RunAfterForget(c)
	require.Equal(t, 1, told)
	require.True(t, givenUp)
}
