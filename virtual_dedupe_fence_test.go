//go:build synctests

package kstage_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kstage/kstage"
)

// listening calls f with each handler call's event, on the worker's goroutine.
type listening struct {
	kstage.NopMetrics
	handled func(kstage.HandledEvent)
}

func (l listening) Handled(e kstage.HandledEvent) { l.handled(e) }

// A partition that is lost while a worker is still parking a record, or sending it
// off: its handler has returned, and its claim is given back by nobody else. (The
// simulator has found that it was kept, and renewed for ever.)
func TestDedupeAPartitionLostWhileItsRecordIsParked(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]error{
		"parked":  errors.New("not yet"),
		"leaving": kstage.Permanent(errors.New("never")),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				topic, opts := w.ladder(1)
				w.produce(identified(topic, "k", "one"))
				failed, lost := make(chan struct{}), make(chan struct{})
				collector := listening{handled: func(e kstage.HandledEvent) {
					if e.Outcome == kstage.OutcomeRetryHere || e.Outcome == kstage.OutcomeDead {
						close(failed)
						<-lost
					}
				}}
				var calls byID
				m := w.start(func(_ context.Context, msg kstage.Message) error {
					if calls.note(msg) == 1 {
						return fail
					}
					return nil
				}, append(opts, kstage.WithMetrics(collector), kstage.WithDedupe(newFickle()))...)
				<-failed
				w.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Heartbeat}, Err: kerr.UnknownMemberID})
				w.eventually(func() bool { return len(w.logs.FilterMessage("partitions given back").All()) == 1 })
				close(lost)
				w.within(30*time.Second, func() bool { return w.committed(topic, 0) == 1 })
				require.Equal(t, 2, calls.n["one"])
				require.NoError(t, m.stop())
			})
		})
	}
}

// Nor does one begin there whose store fails and whose option says to go on without it.
func TestDedupeFailOpenBeginsNothingBehindTheFence(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		store := newFickle()
		asked := make(chan struct{}, 1)
		store.set(func(_ context.Context, call, _ string) error {
			if call == "claim" {
				asked <- struct{}{}
				after(3 * time.Second) // whatever its context says
			}
			return errStoreDown
		})
		m := w.start(func(context.Context, kstage.Message) error { w.t.Error("it must not begin"); return nil },
			append(opts, kstage.WithDedupe(store, kstage.DedupeFailOpen()))...)
		w.produce(identified(topic, "k", "a"))
		<-asked
		require.NoError(w.t, m.stop())
		m.assertIdentity()
	})
}
