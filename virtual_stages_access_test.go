//go:build synctests

package kstage_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kstage/kstage"
)

// leastOfStages is what a consumer with one stage needs.
func leastOfStages() []kfake.ACL {
	return append(least(),
		allow(kmsg.ACLResourceTypeTopic, "g-retry-1", kmsg.ACLOperationRead),
		allow(kmsg.ACLResourceTypeTopic, "g-retry-1", kmsg.ACLOperationWrite),
		allow(kmsg.ACLResourceTypeGroup, "g-retry", kmsg.ACLOperationRead),
	)
}

// staged is a consumer with one stage that logs in as one with few rights.
func staged(w *world, n *wires, h kstage.HandlerFunc) *member {
	_, opts := w.ladder(1)
	return w.start(h, append(opts, w.stages(1, time.Second), once(), over(n), svc("secret"))...)
}

func TestLeastPrivilegeIsEnoughForStages(t *testing.T) {
	t.Parallel()
	secured(t, leastOfStages(), func(w *world, n *wires) {
		t := w.t
		m := staged(w, n, alwaysFails(&journal{}))
		w.fill("orders", 0, 3, 3)
		after(3 * time.Minute)
		require.EqualValues(t, 3, w.committed("orders", 0))
		require.EqualValues(t, 3, w.committedBy("g-retry", "g-retry-1", 0))
		require.Len(t, w.deadLetters(), 3)
		require.Empty(t, m.Health().Reasons)
		require.NoError(t, m.stop())
	})
}

// READ on the retry group or on a retry topic is taken away: main flows, Health says
// what to grant, and after a minute Run ends and says so, too.
func TestLosingReadOnStages(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		acl   func() *kadm.ACLBuilder
		says  string
		group string
		topic string
	}{
		"the group": {func() *kadm.ACLBuilder { return groupACL("g-retry") }, `grant READ on group "g-retry"`, "g-retry", ""},
		"a topic":   {func() *kadm.ACLBuilder { return topicACL("g-retry-1", kadm.OpRead) }, `grant READ on topic "g-retry-1"`, "", "g-retry-1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			secured(t, leastOfStages(), func(w *world, n *wires) {
				t := w.t
				var j journal
				m := staged(w, n, failsAtMain(&j))
				w.eventually(func() bool { return m.Health().Ready })
				after(10 * time.Second)
				w.revoke(c.acl())
				w.fill("orders", 0, 3, 3)
				start := time.Now()
				after(20 * time.Second)
				r, ok := m.reason(kstage.HealthAuthFailing)
				require.True(t, ok, "%v", m.Health().Reasons)
				require.ErrorContains(t, r.Err, c.says)
				require.Equal(t, c.group, r.Group)
				require.Equal(t, c.topic, r.Topic)
				require.False(t, m.Health().Ready)
				require.True(t, m.Health().Live)
				require.EqualValues(t, 3, w.committed("orders", 0), "main flows meanwhile")
				require.Len(t, w.read("g-retry-1")[0], 3)
				require.ErrorContains(t, m.wait(), c.says)
				took := time.Since(start)
				require.GreaterOrEqual(t, took, time.Minute-10*time.Second)
				require.Less(t, took, 75*time.Second)
				require.False(t, m.Health().Live)
			})
		})
	}
}

// What is granted again within the minute is as if nothing had been.
func TestReadOnStagesThatIsGrantedAgain(t *testing.T) {
	t.Parallel()
	for name, acl := range map[string]func() *kadm.ACLBuilder{
		"the group": func() *kadm.ACLBuilder { return groupACL("g-retry") },
		"a topic":   func() *kadm.ACLBuilder { return topicACL("g-retry-1", kadm.OpRead) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			secured(t, leastOfStages(), func(w *world, n *wires) {
				t := w.t
				var j journal
				m := staged(w, n, failsAtMain(&j))
				w.eventually(func() bool { return m.Health().Ready })
				for range 3 {
					w.revoke(acl())
					w.fill("orders", 0, 3, 3)
					after(45 * time.Second)
					require.True(t, m.is(kstage.HealthAuthFailing))
					w.grant(acl())
					after(20 * time.Second)
					require.Empty(t, m.Health().Reasons)
				}
				// what was handled and could not be committed is handled again
				w.eventually(func() bool {
					return m.counts.Snapshot().Processed >= 9 && w.committedBy("g-retry", "g-retry-1", 0) == 9
				})
				require.NoError(t, m.stop())
				m.assertIdentity()
			})
		})
	}
}

// At the start, a retry group that may not be used, with all else in order.
func TestStagesWithoutTheirGroup(t *testing.T) {
	t.Parallel()
	rights := leastOfStages()
	secured(t, rights[:len(rights)-1], func(w *world, n *wires) {
		t := w.t
		m := staged(w, n, func(context.Context, kstage.Message) error { return nil })
		w.fill("orders", 0, 3, 3)
		after(20 * time.Second)
		require.EqualValues(t, 3, w.committed("orders", 0))
		r, ok := m.reason(kstage.HealthNotJoined)
		require.True(t, ok)
		require.Equal(t, "g-retry", r.Group)
		require.ErrorContains(t, r.Err, `grant READ on group "g-retry"`)
		require.ErrorContains(t, m.wait(), `grant READ on group "g-retry"`)
	})
}

// WRITE on a stage is refused: the hand-off says what to grant, nothing is lost, the
// dead-letter topic takes what it is sent, and all goes on after the grant.
func TestWriteOnAStageIsRefused(t *testing.T) {
	t.Parallel()
	secured(t, leastOfStages(), func(w *world, n *wires) {
		t := w.t
		m := staged(w, n, func(_ context.Context, msg kstage.Message) error {
			switch {
			case string(msg.Key()) == "k2":
				return kstage.Permanent(errNotYet)
			case msg.Stage() == 0:
				return errNotYet
			}
			return nil
		})
		w.eventually(func() bool { return m.Health().Ready })
		w.revoke(topicACL("g-retry-1", kadm.OpWrite))
		w.fill("orders", 0, 3, 3)
		after(2 * time.Minute)
		r, ok := m.reason(kstage.HealthHandOffFailing)
		require.True(t, ok, "%v", m.Health().Reasons)
		require.ErrorContains(t, r.Err, `grant WRITE on topic "g-retry-1"`)
		require.Equal(t, "g-retry-1", r.Topic)
		require.Len(t, w.deadLetters(), 1)
		require.EqualValues(t, -1, w.committed("orders", 0))
		w.grant(topicACL("g-retry-1", kadm.OpWrite))
		after(time.Minute)
		require.EqualValues(t, 3, w.committed("orders", 0))
		require.EqualValues(t, 2, m.counts.Snapshot().Processed)
		require.Empty(t, m.Health().Reasons)
		require.NoError(t, m.stop())
		m.assertIdentity()
	})
}
