package kstage_test

import (
	"context"
	"errors"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
)

// publisher is a Producer under test.
type publisher struct {
	*kstage.Producer
	w      *world
	counts *kstage.Counters
}

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
	w.t.Cleanup(func() { _ = p.end() })
	return p
}

// end closes without patience.
func (p *publisher) end() error {
	ctx, cancel := context.WithCancel(context.WithoutCancel(p.w.t.Context()))
	cancel()
	return p.Close(ctx)
}

// reason returns the first reason of a kind in Health.
func (p *publisher) reason(k kstage.ReasonKind) (kstage.HealthReason, bool) {
	for _, r := range p.Health().Reasons {
		if r.Kind == k {
			return r, true
		}
	}
	return kstage.HealthReason{}, false
}

// publishAsync publishes and returns where the answer comes.
func (p *publisher) publishAsync(r *kgo.Record) <-chan error {
	answer := make(chan error, 1)
	p.PublishAsync(p.w.t.Context(), r, func(_ *kgo.Record, err error) { answer <- err })
	return answer
}

// requireCounts checks that each record was told of once.
func (p *publisher) requireCounts(published, failed int) {
	p.w.t.Helper()
	s := p.counts.Snapshot()
	require.EqualValues(p.w.t, published, s.Published, "published")
	require.EqualValues(p.w.t, failed, s.PublishFailed, "failed")
}

// text makes a record for the producer's own topic.
func text(key, value string) *kgo.Record {
	return &kgo.Record{Key: []byte(key), Value: []byte(value)}
}

func unconfirmed(err error) bool {
	var u *kstage.UnconfirmedError
	return errors.As(err, &u)
}

// all are the records of a topic, whatever their partition.
func (w *world) all(topic string) (rs []*kgo.Record) {
	w.t.Helper()
	for _, of := range w.read(topic) {
		rs = append(rs, of...)
	}
	return rs
}
