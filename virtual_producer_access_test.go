//go:build synctests

package kstage_test

import (
	"context"
	"errors"
	"math/rand"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"

	"github.com/kstage/kstage"
)

// login is how a producer logs in as svc.
func login(password string) kstage.ProducerOption {
	return kstage.WithSASL(plain.Auth{User: "svc", Pass: password}.AsMechanism())
}

// requireKerr checks that the broker's error can be found, and what the text says.
func requireKerr(t *testing.T, err error, want *kerr.Error, says string) {
	t.Helper()
	var ke *kerr.Error
	require.ErrorAs(t, err, &ke)
	require.Equal(t, want, ke)
	require.ErrorContains(t, err, says)
	require.False(t, unconfirmed(err), "%v", err)
}

func TestProducerWrongPassword(t *testing.T) {
	t.Parallel()
	secured(t, nil, func(w *world, n *wires) {
		t := w.t
		topic := w.topic("orders", 1)
		password := atomic.Pointer[string]{}
		set := func(s string) { password.Store(&s) }
		set("wrong")
		began := time.Now()
		p := w.producer(kstage.WithTopic(topic), through(n), kstage.WithSASL(plain.Plain(func(context.Context) (plain.Auth, error) {
			return plain.Auth{User: "svc", Pass: *password.Load()}, nil
		})))
		require.False(t, p.Health().Ready)
		err := p.Publish(t.Context(), text("k", "v"))
		requireKerr(t, err, kerr.SaslAuthenticationFailed, "WithSASL")
		require.Less(t, time.Since(began), 5*time.Second)
		requireKerr(t, p.Publish(t.Context(), text("k", "v")), kerr.SaslAuthenticationFailed, "WithSASL")
		r, ok := p.reason(kstage.HealthAuthFailing)
		require.True(t, ok)
		require.ErrorIs(t, r.Err, kerr.SaslAuthenticationFailed)
		require.False(t, p.Health().Ready)
		require.True(t, p.Health().Live)
		require.ErrorIs(t, p.HealthCheck(t.Context()), kerr.SaslAuthenticationFailed)
		after(5 * time.Minute)
		require.Len(t, w.warnings(), 1, "said once")

		set("secret")
		after(15 * time.Second)
		require.NoError(t, p.Publish(t.Context(), text("k", "v")))
		require.NoError(t, p.HealthCheck(t.Context()))
		require.Empty(t, p.Health().Reasons)
		require.Len(t, w.all(topic), 1, "what was refused was not written")
		p.requireCounts(1, 2)

		set("wrong") // later: it keeps trying, and the timeout says why
		n.setCut(everything)
		n.setCut(nil)
		err = p.Publish(t.Context(), text("k", "v"))
		require.True(t, unconfirmed(err), "%v", err)
		require.ErrorIs(t, err, kerr.SaslAuthenticationFailed)
		set("secret")
		after(15 * time.Second)
		require.NoError(t, p.Publish(t.Context(), text("k", "v")))
	})
}

// Closing while the brokers refuse the credentials loses nothing in silence.
func TestProducerCloseWithAWrongPassword(t *testing.T) {
	t.Parallel()
	secured(t, nil, func(w *world, n *wires) {
		t := w.t
		for _, pause := range []time.Duration{0, time.Second, 3 * time.Second} {
			p := w.producer(kstage.WithTopic(w.name("orders")), through(n), login("wrong"))
			answer := p.publishAsync(text("k", "v"))
			after(pause)
			began := time.Now()
			_ = p.Close(t.Context())
			require.Less(t, time.Since(began), 5*time.Second)
			err := <-answer
			require.ErrorIs(t, err, kerr.SaslAuthenticationFailed)
		}
	})
}

// The refusal has come, and nobody has closed the client yet.
func TestProducerCloseAtTheMomentOfARefusal(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic := w.topic("orders", 1)
		p := w.producer(kstage.WithTopic(topic))
		require.NoError(t, p.Publish(t.Context(), text("k", "v")))
		w.silence(topic)
		answer := p.publishAsync(text("k", "v"))
		after(time.Second)
		kstage.RefuseUnseen(p.Producer, kerr.ClusterAuthorizationFailed)
		require.ErrorIs(t, p.Publish(t.Context(), text("k", "v")), kerr.ClusterAuthorizationFailed)
		require.Error(t, p.end())
		require.ErrorIs(t, <-answer, kstage.ErrClosed)
	})
}

func TestProducerUnknownTopic(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		p := w.producer(kstage.WithTopic("no-such-topic"))
		for range 5 { // by its own defaults the client takes 1 s, 11 s and then 25 s
			began := time.Now()
			requireKerr(t, p.Publish(t.Context(), text("k", "v")), kerr.UnknownTopicOrPartition, `topic "no-such-topic" does not exist, or may not be seen: create it`)
			require.Less(t, time.Since(began), 15*time.Second)
			r, ok := p.reason(kstage.HealthTopicMissing)
			require.True(t, ok)
			require.Equal(t, "no-such-topic", r.Topic)
			require.False(t, p.Health().Ready)
		}
		require.Equal(t, []string{"records of a topic fail"}, w.warnings())
		after(61 * time.Second)
		require.Empty(t, p.Health().Reasons, "nobody writes to it any more")
		require.Error(t, p.Publish(t.Context(), text("k", "v")))
		w.topic("no-such-topic", 1)
		require.NoError(t, p.Publish(t.Context(), text("k", "v")))
		require.Empty(t, p.Health().Reasons)
	})
}

func TestProducerTooLarge(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic := w.topic("small", 1, "max.message.bytes", "2000")
		p := w.producer(kstage.WithTopic(topic))
		noise := make([]byte, 3000)
		_, _ = rand.New(rand.NewSource(1)).Read(noise) //nolint:gosec // bytes that do not compress
		began := time.Now()
		requireKerr(t, p.Publish(t.Context(), &kgo.Record{Value: noise}), kerr.MessageTooLarge, "raise the topic's max.message.bytes")
		require.Less(t, time.Since(began), time.Second, "at the first answer")
		requireKerr(t, p.Publish(t.Context(), &kgo.Record{Value: make([]byte, 2<<20)}), kerr.MessageTooLarge, "kgo.ProducerBatchMaxBytes")
		require.NoError(t, p.Publish(t.Context(), text("k", "v")))
	})
}

func TestProducerRecordThatItsTopicRefuses(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic := w.topic("orders", 1)
		p := w.producer(kstage.WithTopic(topic))
		require.NoError(t, p.Publish(t.Context(), text("k", "v")))
		w.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Err: kerr.InvalidRecord, Count: 1})
		requireKerr(t, p.Publish(t.Context(), text("", "v")), kerr.InvalidRecord, "the broker refuses the record")
		require.NoError(t, p.Publish(t.Context(), text("k", "v")))
	})
}

// No permission on the topic at all: the broker says so of the topic.
func TestProducerMayNotSeeTheTopic(t *testing.T) {
	t.Parallel()
	secured(t, []kfake.ACL{allow(kmsg.ACLResourceTypeTopic, "other", kmsg.ACLOperationWrite)}, func(w *world, n *wires) {
		t := w.t
		topic := w.topic("orders", 1)
		w.topic("other", 1)
		p := w.producer(kstage.WithTopic(topic), through(n), login("secret"))
		began := time.Now()
		requireKerr(t, p.Publish(t.Context(), text("k", "v")), kerr.TopicAuthorizationFailed, `grant WRITE on topic "orders"`)
		require.Less(t, time.Since(began), 2*time.Second)
		r, ok := p.reason(kstage.HealthAuthFailing)
		require.True(t, ok)
		require.Equal(t, topic, r.Topic)
		require.NoError(t, p.Publish(t.Context(), record("other", 0, "k", "v")), "other topics go on")
		_, ok = p.reason(kstage.HealthAuthFailing)
		require.True(t, ok)
		w.grant(topicACL(topic, kadm.OpWrite))
		w.eventually(func() bool { return p.Publish(t.Context(), text("k", "v")) == nil })
		require.Empty(t, p.Health().Reasons)
	})
}

// No permission to write anywhere: the broker refuses a producer's id, which the client
// keeps for its life.
func TestProducerMayWriteNowhereUntilItIsGranted(t *testing.T) {
	t.Parallel()
	secured(t, []kfake.ACL{allow(kmsg.ACLResourceTypeTopic, "orders", kmsg.ACLOperationDescribe)}, func(w *world, n *wires) {
		t := w.t
		topic := w.topic("orders", 1)
		p := w.producer(kstage.WithTopic(topic), through(n), login("secret"))
		for range 3 {
			began := time.Now()
			requireKerr(t, p.Publish(t.Context(), text("k", "v")), kerr.ClusterAuthorizationFailed, `grant WRITE on topic "orders"`)
			require.Less(t, time.Since(began), time.Second, "at the first answer")
		}
		r, ok := p.reason(kstage.HealthAuthFailing)
		require.True(t, ok)
		require.Empty(t, r.Topic)
		after(2 * time.Minute)
		requireKerr(t, p.Publish(t.Context(), text("k", "v")), kerr.ClusterAuthorizationFailed, `grant WRITE on topic "orders"`)
		require.Len(t, w.warnings(), 1, "%v", w.warnings())
		w.grant(topicACL(topic, kadm.OpWrite))
		after(12 * time.Second)
		require.Empty(t, p.Health().Reasons)
		require.NoError(t, p.Publish(t.Context(), text("k", "v")))
		require.NoError(t, p.Close(t.Context()))
		p.requireCounts(1, 4)
	})
}

// A topic that was there, and goes.
func TestProducerTopicThatIsDeleted(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic := w.topic("orders", 1)
		p := w.producer(kstage.WithTopic(topic))
		require.NoError(t, p.Publish(t.Context(), text("k", "v")))
		_, err := w.adm.DeleteTopic(t.Context(), topic)
		require.NoError(t, err)
		for range 5 {
			began := time.Now()
			err := p.Publish(t.Context(), text("k", "v"))
			require.ErrorContains(t, err, "does not exist, or may not be seen")
			require.Less(t, time.Since(began), 15*time.Second)
		}
	})
}

// Each record of a client that is replaced is told of once, whatever it was doing.
func TestProducerRefusedUnderLoad(t *testing.T) {
	t.Parallel()
	secured(t, []kfake.ACL{allow(kmsg.ACLResourceTypeTopic, "orders", kmsg.ACLOperationDescribe)}, func(w *world, n *wires) {
		t := w.t
		topic := w.topic("orders", 3)
		p := w.producer(kstage.WithTopic(topic), through(n), login("secret"), kstage.WithBuffer(20, 1<<20))
		var ok, bad atomic.Int64
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				for range 40 {
					err := p.Publish(t.Context(), text("k", "v"))
					if err == nil {
						ok.Add(1)
					} else {
						require.ErrorIs(t, err, kerr.ClusterAuthorizationFailed)
						bad.Add(1)
					}
					after(time.Second)
				}
			})
		}
		after(10 * time.Second)
		w.grant(topicACL(topic, kadm.OpWrite))
		wg.Wait()
		require.Greater(t, ok.Load(), int64(500))
		require.Greater(t, bad.Load(), int64(300))
		require.NoError(t, p.Close(t.Context()))
		p.requireCounts(int(ok.Load()), int(bad.Load()))
		require.Len(t, w.all(topic), int(ok.Load()))
	})
}

func TestProducerCloseWhileItIsRefused(t *testing.T) {
	t.Parallel()
	secured(t, []kfake.ACL{allow(kmsg.ACLResourceTypeTopic, "orders", kmsg.ACLOperationDescribe)}, func(w *world, n *wires) {
		t := w.t
		topic := w.topic("orders", 1)
		for _, pause := range []time.Duration{0, 10 * time.Millisecond, 600 * time.Millisecond, 5 * time.Second} {
			p := w.producer(kstage.WithTopic(topic), through(n), login("secret"))
			require.Error(t, p.Publish(t.Context(), text("k", "v")))
			after(pause)
			require.NoError(t, p.Close(t.Context()))
		}
	})
}

// The client would fail a topic that was created again for ever.
func TestProducerTopicThatIsCreatedAgain(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic := w.topic("orders", 1)
		p := w.producer(kstage.WithTopic(topic))
		require.NoError(t, p.Publish(t.Context(), text("k", "v")))
		_, err := w.adm.DeleteTopic(t.Context(), topic)
		require.NoError(t, err)
		w.topic("orders", 1)
		w.eventually(func() bool { // the client may take a while to notice
			err := p.Publish(t.Context(), text("k", "v"))
			require.True(t, err == nil || errors.Is(err, kerr.UnknownTopicID) || errors.Is(err, kerr.UnknownTopicOrPartition), "%v", err)
			return err == nil
		})
		after(time.Minute)
		for range 10 {
			require.NoError(t, p.Publish(t.Context(), text("k", "v")))
			after(time.Minute)
		}
		require.Empty(t, p.Health().Reasons)
	})
}
