//go:build synctests

package kstage_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kstage/kstage"
)

// through makes producers use the wires. What is cut looks as the operating system says it.
func through(n *wires, more ...kgo.Opt) kstage.ProducerOption {
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := n.dial(ctx, network, addr)
		if err != nil {
			err = &net.OpError{Op: "dial", Net: network, Err: err}
		}
		return c, err
	}
	return kstage.WithClientOptions(func(kstage.ClientRole) []kgo.Opt { return append([]kgo.Opt{kgo.Dialer(dial)}, more...) })
}

// failProduce answers what is written to a topic with an error, until it is lifted.
func (w *world) failProduce(topic string, err *kerr.Error) (lift func()) {
	return w.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Err: err, Count: -1}).Remove
}

// requireLate checks that a delivery timeout of 30 s has ended a record.
func requireLate(t *testing.T, began time.Time, err error) {
	t.Helper()
	require.True(t, unconfirmed(err), "%v", err)
	require.ErrorIs(t, err, kgo.ErrRecordTimeout)
	require.ErrorContains(t, err, "WithDeliveryTimeout")
	took := time.Since(began)
	require.GreaterOrEqual(t, took, 30*time.Second)
	require.LessOrEqual(t, took, 30*time.Second+600*time.Millisecond)
}
