//go:build synctests

package kstage_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kstage/kstage"
)

// chaos is a crew under faults.
type chaos struct {
	*crew
	t     *testing.T
	rng   *rand.Rand
	seed  uint64
	hands []*hand // that run
	all   []*hand
}

const (
	chaosPartitions = 4
	chaosRecords    = 150 // of each partition
)

// Members come and go, leaders and coordinators move, requests fail, handlers are
// slow, fail, and die: each record is handled or dead-lettered, no commit ever
// passes an unfinished one, and each member's counts add up.
func TestChaos(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				c := &chaos{crew: newCrew(w, chaosPartitions), t: t, rng: rand.New(rand.NewPCG(seed, 2)), seed: seed}
				for p := range int32(chaosPartitions) {
					w.fill(c.topic, p, chaosRecords, 1+c.rng.IntN(30))
				}
				for range 30 {
					c.act()
					after(time.Duration(c.rng.IntN(4000)) * time.Millisecond)
				}
				c.heal()
				c.check()
			}, threeBrokers()...)
		})
	}
}

// act does one thing to the group.
func (c *chaos) act() {
	switch n := c.rng.IntN(100); {
	case len(c.hands) == 0 || n < 15 && len(c.hands) < 3:
		c.come()
	case n < 25:
		c.leave(c.rng.IntN(len(c.hands)))
	case n < 45:
		_ = c.w.fake.MoveTopicPartition(c.topic, c.rng.Int32N(chaosPartitions), c.rng.Int32N(3))
	case n < 60:
		c.w.fake.RehashCoordinators()
	case n < 95:
		c.fault()
	}
}

func (c *chaos) come() {
	name := fmt.Sprintf("m%d", len(c.all))
	opts := []kgo.Opt{kgo.SessionTimeout(8 * time.Second), kgo.HeartbeatInterval(time.Second)}
	if c.seed%3 == 0 {
		opts = append(opts, kgo.Balancers(kgo.RangeBalancer()))
	}
	h := c.join(name, c.work, c.w.mainOptions(opts...), kstage.WithWorkers(1+c.rng.IntN(8)),
		kstage.WithRevokeDrain(time.Duration(c.rng.IntN(3000))*time.Millisecond),
		kstage.WithShutdownTimeout(time.Duration(c.rng.IntN(3000))*time.Millisecond, 5*time.Second))
	c.hands, c.all = append(c.hands, h), append(c.all, h)
}

// leave ends a member; with limits so short it may say that this was not clean.
func (c *chaos) leave(i int) {
	h := c.hands[i]
	c.hands = append(c.hands[:i:i], c.hands[i+1:]...)
	began := time.Now()
	_ = h.stop()
	require.LessOrEqual(c.t, time.Since(began), 8*time.Second)
}

// fault makes requests fail. None makes a member join anew with another id: the
// embedded broker then may wait for ever for the one it has forgotten.
func (c *chaos) fault() {
	faults := []kfake.Fault{
		{Keys: []kmsg.Key{kmsg.Heartbeat}, Err: kerr.UnknownMemberID},
		{Keys: []kmsg.Key{kmsg.Heartbeat}, Err: kerr.IllegalGeneration},
		{Keys: []kmsg.Key{kmsg.Heartbeat}, Err: kerr.RebalanceInProgress},
		{Keys: []kmsg.Key{kmsg.SyncGroup}, Err: kerr.RebalanceInProgress},
		{Keys: []kmsg.Key{kmsg.OffsetCommit}, Err: kerr.UnknownMemberID},
		{Keys: []kmsg.Key{kmsg.OffsetCommit}, Err: kerr.RebalanceInProgress, Count: 3},
		{Keys: []kmsg.Key{kmsg.OffsetCommit}, Err: kerr.RequestTimedOut},
		{Keys: []kmsg.Key{kmsg.OffsetFetch}, Err: kerr.NotCoordinator, Count: 2},
		{Keys: []kmsg.Key{kmsg.Fetch}, Err: kerr.NotLeaderForPartition, Count: 2},
		{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotEnoughReplicas, Count: 3},
	}
	c.w.fake.Fault(faults[c.rng.IntN(len(faults))])
}

// work takes its time, heeds its context or not, and fails in every way: what a
// record does depends on the record and the attempt alone.
func (c *chaos) work(ctx context.Context, msg kstage.Message) error {
	n := mix(c.seed, msg)
	d := time.Duration(n%300) * time.Millisecond
	if n%53 == 0 {
		d = 4 * time.Second
	}
	if n%2 == 0 {
		after(d)
	} else if err := slowly(d)(ctx, msg); err != nil {
		return err
	}
	switch {
	case doomed(n):
		return kstage.Permanent(errors.New("never"))
	case n%13 == 0 && msg.Attempt() == 1:
		return errors.New("not yet")
	case n%29 == 0 && msg.Attempt() == 1:
		panic("not yet")
	}
	return nil
}

func doomed(n int64) bool { return n%17 == 0 }

// heal lets the group end its work.
func (c *chaos) heal() {
	for len(c.hands) < 2 {
		c.come()
	}
	for p := range int32(chaosPartitions) {
		c.w.eventually(func() bool { return c.stored(p) == chaosRecords })
	}
	for len(c.hands) > 0 {
		c.leave(0)
	}
}

func (c *chaos) check() {
	dead := map[string]bool{}
	for _, d := range c.w.deadLetters() {
		dead[fmt.Sprintf("%d/%d", d.Origin.Partition, d.Origin.Offset)] = true
	}
	for p := range int32(chaosPartitions) {
		for o := range int64(chaosRecords) {
			_, handled := c.finished[p][o]
			require.True(c.t, handled || dead[fmt.Sprintf("%d/%d", p, o)], "%d/%d is lost", p, o)
		}
	}
	c.neverPast()
	for _, h := range c.all {
		h.assertIdentity()
		require.Empty(c.t, h.owns())
	}
}
