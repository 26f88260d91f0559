//go:build synctests

package kstage_test

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kstage/kstage"
)

// causeOf is a handler that finishes all but the records of key "stuck": these
// wait for their cancellation and note its cause and time.
type causeOf struct {
	cause atomic.Pointer[error]
	at    atomic.Pointer[time.Time]
}

func (c *causeOf) handle(ctx context.Context, msg kstage.Message) error {
	if string(msg.Key()) != "stuck" || c.cause.Load() != nil {
		return nil
	}
	err, now := cancelled(ctx), time.Now()
	c.at.Store(&now)
	c.cause.Store(&err)
	return err
}

// rare commits by interval never, so that each commit seen has another reason.
func rare() kstage.ConsumerOption { return kstage.WithCommitInterval(time.Hour) }

// A heartbeat refused with UNKNOWN_MEMBER_ID: the partitions are lost. Handlers
// are cancelled at once, nothing is committed, Health says so until the member
// has joined again, and the records are handled again.
func TestLostByHeartbeat(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		c := newCrew(w, 1)
		w.produce(record(c.topic, 0, "a", "0"), record(c.topic, 0, "stuck", "1"), record(c.topic, 0, "b", "2"))
		var stuck causeOf
		m := c.join("m", stuck.handle, rare())
		w.eventually(func() bool { return c.done() == 2 && m.Health().Ready })
		w.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Heartbeat}, Err: kerr.UnknownMemberID})
		w.eventually(func() bool { return stuck.cause.Load() != nil })
		require.ErrorIs(t, *stuck.cause.Load(), kstage.ErrLost)
		w.eventually(func() bool { return len(m.told(kstage.PartitionsLost)) == 1 })
		lost := m.told(kstage.PartitionsLost)[0]
		require.Zero(t, lost.at.Sub(*stuck.at.Load()), "cancelled at once")
		require.Empty(t, c.seen(), "nothing is committed of lost partitions")

		w.eventually(func() bool { return m.Health().Ready && len(c.calls("")) == 6 && c.done() == 3 })
		require.NoError(t, m.stop())
		require.Equal(t, []bool{true, false, true, false, true}, m.changes(kstage.HealthNotJoined), "at the start, joined, lost, joined, ended")
		require.EqualValues(t, 3, c.stored(0))
		require.Empty(t, m.told(kstage.PartitionsRevoked)[1:])
		require.Empty(t, m.owns())
		m.assertIdentity()
	})
}

// A commit under way does not hold up the cancellation of what is lost.
func TestLostCancelsAtOnce(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		c := newCrew(w, 1)
		w.produce(record(c.topic, 0, "a", "0"), record(c.topic, 0, "stuck", "1"))
		var stuck causeOf
		m := c.join("m", stuck.handle, rare())
		w.eventually(func() bool { return c.done() == 1 && m.Health().Ready })
		release := m.HoldGate()
		w.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Heartbeat}, Err: kerr.UnknownMemberID})
		after(10 * time.Second)
		cause := stuck.cause.Load()
		release()
		require.NotNil(t, cause)
		require.ErrorIs(t, *cause, kstage.ErrLost)
		w.eventually(func() bool { return m.Health().Ready && c.done() == 2 })
		require.NoError(t, m.stop())
		m.assertIdentity()
	})
}

// A member that the brokers cannot hear loses its partitions when its session
// has run out, and knows it no later than its own retries end: it commits
// nothing then, and the new owner's offsets stand.
func TestLostBehindASilentNetwork(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		c := newCrew(w, 1)
		w.produce(record(c.topic, 0, "a", "0"), record(c.topic, 0, "stuck", "1"), record(c.topic, 0, "b", "2"))
		var stuck causeOf
		opts := w.mainOptions(kgo.SessionTimeout(10 * time.Second))
		first := c.join("first", stuck.handle, opts)
		w.eventually(func() bool { return c.done() == 2 && len(c.memberIDs()) == 1 })
		zombie := c.memberIDs()[0]
		silent := w.blackhole(func(req kmsg.Request) bool { return memberOf(req) == zombie })
		silent.Store(true)
		second := c.join("second", func(context.Context, kstage.Message) error { return nil }, opts)
		w.eventually(func() bool { return c.done() == 3 && c.stored(0) == 3 })
		w.eventually(func() bool { return len(first.told(kstage.PartitionsLost)) == 1 })
		require.ErrorIs(t, *stuck.cause.Load(), kstage.ErrLost)
		lost := first.told(kstage.PartitionsLost)[0]
		require.LessOrEqual(t, lost.at.Sub(*stuck.at.Load()), 3*time.Second, "cancelled at once; forgotten when a commit under way has ended")
		require.False(t, first.Health().Ready)

		silent.Store(false)
		w.eventually(func() bool { return first.Health().Ready })
		require.NoError(t, first.stop())
		require.NoError(t, second.stop())
		for _, m := range c.seen() {
			require.False(t, m.member == zombie && m.at.After(lost.at), "%+v after its partitions were lost", m)
		}
		require.EqualValues(t, 3, c.stored(0))
		first.assertIdentity()
		second.assertIdentity()
	})
}

// memberOf names the member that a group's request comes from.
func memberOf(req kmsg.Request) string {
	switch r := req.(type) {
	case *kmsg.HeartbeatRequest:
		return r.MemberID
	case *kmsg.OffsetCommitRequest:
		return r.MemberID
	case *kmsg.JoinGroupRequest:
		return r.MemberID
	case *kmsg.SyncGroupRequest:
		return r.MemberID
	}
	return ""
}

// UNKNOWN_MEMBER_ID at a join makes the client join anew without a word: what
// leaves then is lost, not revoked, and what stays is committed only when the new
// member knows what it owns.
func TestSilentRejoinIsALoss(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		c := newCrew(w, 2)
		for p := range int32(2) {
			w.produce(record(c.topic, p, "late", "0"), record(c.topic, p, "stuck", "1"))
		}
		var causes [2]causeOf
		joining := make(chan struct{})
		first := c.join("first", func(ctx context.Context, msg kstage.Message) error {
			if string(msg.Key()) == "late" {
				<-joining
			}
			return causes[msg.Record.Partition].handle(ctx, msg)
		}, w.mainOptions(kgo.SessionTimeout(10*time.Second)), kstage.WithCommitInterval(20*time.Millisecond))
		w.eventually(func() bool { return len(c.calls("first")) == 4 })
		old := c.memberIDs()[0]
		var refused atomic.Bool
		w.control(kmsg.JoinGroup, func(req kmsg.Request) (kmsg.Response, error, bool) {
			if memberOf(req) != old || refused.Swap(true) {
				return nil, nil, false
			}
			resp := req.ResponseKind().(*kmsg.JoinGroupResponse)
			resp.ErrorCode = kerr.UnknownMemberID.Code
			return resp, nil, true
		})
		second := c.join("second", func(context.Context, kstage.Message) error { return nil }, w.mainOptions(kgo.SessionTimeout(10*time.Second)))
		w.eventually(func() bool { return refused.Load() })
		after(time.Second)
		close(joining) // something to commit of both partitions, which waits for the join
		w.eventually(func() bool { return len(first.told(kstage.PartitionsLost)) == 1 })
		lost := first.told(kstage.PartitionsLost)[0]
		require.Len(t, lost.Partitions, 1)
		p := lost.Partitions[0]
		require.ErrorIs(t, *causes[p].cause.Load(), kstage.ErrLost)
		require.Empty(t, first.told(kstage.PartitionsRevoked))
		w.eventually(func() bool { return c.stored(p) == 2 })
		kept := 1 - p
		require.Nil(t, causes[kept].cause.Load(), "what stays goes on")
		w.eventually(func() bool { return c.stored(kept) == 1 })
		secondID := slices.DeleteFunc(c.memberIDs(), func(id string) bool { return !committedAs(c.seen(), id, p) })
		require.Len(t, secondID, 1)
		for _, m := range c.seen() {
			if m.partition == p {
				require.Equal(t, secondID[0], m.member, "only the new owner commits")
			}
		}
		require.NoError(t, second.stop())
		_ = first.stop()
		first.assertIdentity()
		second.assertIdentity()
	})
}

func committedAs(commits []committing, member string, partition int32) bool {
	return slices.ContainsFunc(commits, func(m committing) bool { return m.member == member && m.partition == partition })
}
