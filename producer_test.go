package kstage_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
)

// producer makes a Producer that ends with the test.
func (w *world) producer(opts ...kstage.ProducerOption) *publisher {
	w.t.Helper()
	p := &publisher{w: w, counts: &kstage.Counters{}}
	all := append([]kstage.ProducerOption{
		kstage.WithBrokers(w.brokers...),
		kstage.WithClientOptions(func(kstage.ClientRole) []kgo.Opt { return w.reach }),
		kstage.WithMetrics(p.counts),
		kstage.WithLogger(w.log),
	}, opts...)
	made, err := kstage.NewProducer(all...)
	require.NoError(w.t, err)
	p.Producer = made
	w.t.Cleanup(func() { _ = p.close() })
	return p
}

// publisher is a Producer under test.
type publisher struct {
	*kstage.Producer
	w      *world
	counts *kstage.Counters
}

// close gives up at once on what is not answered.
func (p *publisher) close() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return p.Close(ctx)
}

func TestSmoke(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic := w.topic("orders", 3)
	p := w.producer(kstage.WithTopic(topic))
	r := &kgo.Record{Key: []byte("k"), Value: []byte("v")}
	require.NoError(t, p.Publish(t.Context(), r))
	t.Log(r.Partition, r.Offset, r.Timestamp, r.Headers, p.Health())
	require.NoError(t, p.Close(t.Context()))
	t.Log(p.Publish(t.Context(), r))
	for _, rs := range w.read(topic) {
		for _, r := range rs {
			t.Log(string(r.Key), r.Headers, r.Offset)
		}
	}
}
