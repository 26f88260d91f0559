//go:build synctests

package kstage_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kstage/kstage"
)

// Health follows the connection; a producer whose broker is away loses nothing within the timeout.
func TestProducerHealthFollowsTheBroker(t *testing.T) {
	t.Parallel()
	wired(t, nil, func(w *world, n *wires) {
		t := w.t
		topic := w.topic("orders", 1)
		n.setCut(everything)
		var told watched
		p := w.producer(kstage.WithTopic(topic), through(n), kstage.WithMetrics(&told), kstage.WithDeliveryTimeout(2*time.Minute))
		require.Equal(t, []kstage.ReasonKind{kstage.HealthDisconnected}, kindsOf(p.Health()))
		require.False(t, p.Health().Ready)
		early := p.publishAsync(text("k", "1"))
		after(time.Minute)
		r, _ := p.reason(kstage.HealthDisconnected)
		require.ErrorIs(t, r.Err, errCut)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		require.ErrorIs(t, p.HealthCheck(ctx), errCut)
		n.setCut(nil)
		require.NoError(t, <-early)
		require.NoError(t, p.HealthCheck(t.Context()))
		require.Empty(t, p.Health().Reasons)
		require.True(t, p.Health().Ready)

		after(time.Minute)
		n.setCut(everything)
		mid := p.publishAsync(text("k", "2"))
		after(time.Minute)
		require.Equal(t, []kstage.ReasonKind{kstage.HealthDisconnected}, kindsOf(p.Health()))
		n.setCut(nil)
		require.NoError(t, <-mid)
		require.Empty(t, p.Health().Reasons)
		require.NoError(t, p.Close(t.Context()))
		require.Equal(t, []kstage.ReasonKind{kstage.HealthDraining}, kindsOf(p.Health()))
		require.Equal(t, []string{"no broker answers, trying on", "disconnected: no broker can be reached"}, w.warnings())
		require.Equal(t, 1, w.logs.FilterMessage("a broker answers").Len())
		require.Equal(t, 1, w.logs.FilterMessage("connected again").Len())
		require.False(t, slices.Contains(told.all(), "-draining"))
	})
}

// HealthCheck ends with its context, whatever the client does.
func TestProducerHealthCheckEnds(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		w.fake.Control(func(kmsg.Request) (kmsg.Response, error, bool) { w.fake.KeepControl(); return nil, nil, true })
		p := w.producer()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		require.ErrorIs(t, p.HealthCheck(ctx), context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(began))
		began = time.Now()
		require.NoError(t, p.end())
		require.Less(t, time.Since(began), 2*time.Second)
	})
}
