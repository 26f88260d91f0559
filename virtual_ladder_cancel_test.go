//go:build synctests

package kstage_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kstage/kstage"
)

const plightRecords = 10 // of each of two partitions

// plight is a state of the ladder that a shutdown or a revocation may meet.
type plight struct {
	name   string
	opts   []kstage.ConsumerOption
	before func(w *world) (lift func()) // what goes wrong, until it is lifted
	stage  func(ctx context.Context, c *plightCrew) error
	ready  func(c *plightCrew) bool // the state is reached
	// unclean: Run names the records that are in progress
	unclean bool
}

func plights() []plight {
	failed := func(c *plightCrew) bool { return c.first.counts.Snapshot().Failed >= 2*plightRecords }
	return []plight{
		{
			name: "waiting in line",
			ready: func(c *plightCrew) bool {
				return c.first.waiting() > 0 && c.first.counts.Snapshot().Retried == 2*plightRecords
			},
		},
		{
			name:   "a copy on its way",
			before: func(w *world) func() { return w.silence("g-retry-1") },
			ready:  failed, unclean: true,
		},
		{
			name: "a copy in its back-off",
			before: func(w *world) func() {
				return w.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "g-retry-1", Err: kerr.TopicAuthorizationFailed, Count: -1}).Remove
			},
			ready: func(c *plightCrew) bool {
				_, failing := c.first.reason(kstage.HealthHandOffFailing)
				return failing && failed(c)
			},
			unclean: true,
		},
		{
			name:  "an immediate retry of a stage",
			opts:  []kstage.ConsumerOption{kstage.WithImmediateRetries(9, kstage.Backoff{Min: 10 * time.Minute, Max: 10 * time.Minute})}, // with jitter: some come early
			stage: func(context.Context, *plightCrew) error { return errNotYet },
			ready: func(c *plightCrew) bool { return c.first.counts.Snapshot().Failed >= 4*plightRecords },
		},
		{
			name: "a handler of a stage",
			stage: func(ctx context.Context, c *plightCrew) error {
				select {
				case <-ctx.Done():
					return kstage.Permanent(context.Cause(ctx))
				case <-c.lifted:
					return nil
				}
			},
			ready: func(c *plightCrew) bool { return c.calls("g-retry-1") > 4 },
		},
	}
}

// plightCrew is two members, one after the other, and what they have seen.
type plightCrew struct {
	plight
	w             *world
	first, second *member
	moved         *moves // of the second
	opts          []kstage.ConsumerOption
	lifted        chan struct{}

	mu   sync.Mutex // guards all below
	seen []witness
}

// witness is one handler call.
type witness struct {
	who, topic, value string
	attempt           int
	began, ended      time.Time
	err               error
}

func newPlightCrew(w *world, p plight) *plightCrew {
	topic, opts := w.ladder(2)
	opts = append(append(opts, w.stages(2, time.Minute), once(), kstage.WithShutdownTimeout(time.Second, 5*time.Second), kstage.WithRevokeDrain(2*time.Second)), p.opts...)
	for i := range 2 * plightRecords {
		w.produce(record(topic, int32(i%2), fmt.Sprint(i), fmt.Sprint(i)))
	}
	return &plightCrew{plight: p, w: w, opts: opts, lifted: make(chan struct{})}
}

// handle fails on the main topic, without immediate retries, and does in the stage
// what the plight says, until that is lifted.
func (c *plightCrew) handle(who string) kstage.HandlerFunc {
	return func(ctx context.Context, msg kstage.Message) error {
		s := witness{who: who, topic: msg.Record.Topic, value: string(msg.Value()), attempt: msg.Attempt(), began: time.Now()}
		c.mu.Lock()
		at := len(c.seen)
		c.seen = append(c.seen, s)
		c.mu.Unlock()
		s.err = c.answer(ctx, msg)
		s.ended = time.Now()
		if ctx.Err() != nil && s.err != nil {
			s.err = errCancelled
		}
		err := s.err
		if errors.Is(err, errCancelled) {
			err = kstage.Permanent(err) // it must not matter what it is
		}
		c.mu.Lock()
		c.seen[at] = s
		c.mu.Unlock()
		return err
	}
}

var errCancelled = errors.New("cancelled")

func (c *plightCrew) answer(ctx context.Context, msg kstage.Message) error {
	if msg.Stage() == 0 {
		return kstage.RetryAfter(errNotYet, 0)
	}
	select {
	case <-c.lifted:
		return nil
	default:
	}
	if c.stage == nil {
		return nil
	}
	return c.stage(ctx, c)
}

func (c *plightCrew) calls(topic string) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.seen {
		if s.topic == topic {
			n++
		}
	}
	return n
}

// handled counts the records that have ended well.
func (c *plightCrew) handled() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	values := map[string]bool{}
	for _, s := range c.seen {
		if s.err == nil && !s.ended.IsZero() {
			values[s.value] = true
		}
	}
	return len(values)
}

// reach brings the first member into the plight.
func (c *plightCrew) reach() (lift func()) {
	undo := func() {}
	if c.before != nil {
		undo = c.before(c.w)
	}
	c.first = c.w.start(c.handle("first"), c.opts...)
	c.w.eventually(func() bool { return c.ready(c) })
	return sync.OnceFunc(func() { undo(); close(c.lifted) })
}

func (c *plightCrew) follow() { c.second, c.moved = c.w.watched(c.handle("second"), c.opts...) }

// check requires that each record was handled in the end, none is dead, no call was
// early, and that the attempts of each member's calls are those that were spent.
func (c *plightCrew) check() {
	t := c.w.t
	require.Equal(t, 2*plightRecords, c.handled())
	require.Empty(t, c.w.read(c.w.name("g-dlq")))
	c.mu.Lock()
	defer c.mu.Unlock()
	failed := map[string]time.Time{} // on the main topic, for the first time
	spent := map[string]int{}        // in the stage, by one member
	for _, s := range c.seen {
		if s.topic != "g-retry-1" {
			require.Equal(t, 1, s.attempt, "%+v", s)
			if _, again := failed[s.value]; !again {
				failed[s.value] = s.ended
			}
			continue
		}
		require.GreaterOrEqual(t, s.began.Sub(failed[s.value]), time.Minute, "%+v", s)
		require.Equal(t, 2+spent[s.who+s.value], s.attempt, "a cancelled call, or one of another member, was counted: %+v", s)
		if s.err != nil && !errors.Is(s.err, errCancelled) {
			spent[s.who+s.value]++
		}
	}
	c.first.assertIdentity()
	c.second.assertIdentity()
}

// Whatever a record of the ladder is at when Run ends: it costs no attempt, and after
// a restart it is handled as if nothing had been.
func TestAShutdownLosesNothingOfTheLadder(t *testing.T) {
	t.Parallel()
	for _, p := range plights() {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				t := w.t
				c := newPlightCrew(w, p)
				lift := c.reach()
				began := time.Now()
				err := c.first.stop()
				require.LessOrEqual(t, time.Since(began), 6*time.Second)
				var drain *kstage.DrainError
				if p.unclean {
					require.ErrorAs(t, err, &drain)
				} else {
					require.NoError(t, err)
				}
				lift()
				c.follow()
				w.everySecond(time.Hour, func() bool { return c.handled() == 2*plightRecords })
				after(5 * time.Second) // the last is committed
				require.NoError(t, c.second.stop())
				c.check()
			})
		})
	}
}

// The same when a part of the partitions goes to another member.
func TestARevocationLosesNothingOfTheLadder(t *testing.T) {
	t.Parallel()
	for _, p := range plights() {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				t := w.t
				c := newPlightCrew(w, p)
				lift := c.reach()
				c.follow()
				w.eventually(func() bool {
					return len(c.moved.of("orders", kstage.PartitionsAssigned)) > 0 && len(c.moved.of("g-retry-1", kstage.PartitionsAssigned)) > 0
				})
				lift()
				w.everySecond(3*time.Hour, func() bool { return c.handled() == 2*plightRecords })
				after(time.Minute) // copies that were on their way come to an end
				require.NoError(t, c.second.stop())
				require.NoError(t, c.first.stop())
				c.check()
				other := false
				for _, s := range c.seen {
					other = other || s.who == "second" && s.topic == "g-retry-1" && s.err == nil
				}
				require.True(t, other, "the other member has had its share")
			})
		})
	}
}
