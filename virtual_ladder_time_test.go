//go:build synctests

package kstage_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kstage/kstage"
)

const (
	climbPartitions = 3
	climbRecords    = 40 // of each partition
)

// climb is a group whose records climb the ladder, and what is known of each
// copy: when the call it came from had failed.
type climb struct {
	w       *world
	opts    []kstage.ConsumerOption
	seed    uint64
	ids     map[string]string // topic ids, by name, as copies tell them
	members []*member         // that run
	all     []*member

	mu      sync.Mutex // guards all below
	failed  map[string]failing
	asleep  map[string]time.Time // by value: no call sooner
	snoozes map[string]int       // by value
	handled map[string]int       // by value
	dying   map[string]bool      // by value: failed for the last time
	wrong   []string
	late    time.Duration // the most, of records that do not hop
}

// failing is the failures of one delivery: more than one where it was handled again.
type failing struct {
	first, last time.Time
	delay       time.Duration
}

func newClimb(w *world, seed uint64) *climb {
	topic, opts := w.ladder(climbPartitions)
	c := &climb{
		w: w, opts: append(opts, w.stages(climbPartitions, threeStages...), once()), seed: seed, ids: map[string]string{},
		failed: map[string]failing{}, asleep: map[string]time.Time{}, snoozes: map[string]int{}, handled: map[string]int{}, dying: map[string]bool{},
	}
	for _, name := range []string{topic, "g-retry-1", "g-retry-2", "g-retry-3"} {
		c.ids[name] = fmt.Sprintf("%x", w.topicID(name))
	}
	rng := rand.New(rand.NewPCG(seed, 3))
	for p := range int32(climbPartitions) {
		for i := range climbRecords {
			w.produce(record(topic, p, fmt.Sprintf("k%d", rng.IntN(5)), fmt.Sprintf("%d/%d", p, i)))
		}
	}
	return c
}

// copyID is what the copy of a delivery says of it.
func (c *climb) copyID(r *kgo.Record, target string) string {
	return fmt.Sprintf("%s/%d/%d/%d>%s", c.ids[r.Topic], r.Partition, r.LeaderEpoch, r.Offset, target)
}

// handle lets each record fail in a way of its own. It looks whether the call is early.
func (c *climb) handle(ctx context.Context, msg kstage.Message) error {
	c.look(msg)
	if err := slowly(time.Duration(mix(c.seed, msg)%int64(300*time.Millisecond)))(ctx, msg); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	value := string(msg.Value())
	var p, i int
	_, err := fmt.Sscanf(value, "%d/%d", &p, &i)
	require.NoError(c.w.t, err)
	switch i % 8 {
	case 0, 1: // never
		return c.fails(msg, errNotYet, 0)
	case 2, 3: // at the third call
		if msg.Attempt() < 3 {
			return c.fails(msg, errNotYet, 0)
		}
	case 4: // leaves out a stage
		if msg.Attempt() == 1 {
			return c.fails(msg, kstage.RetryAfter(errNotYet, 30*time.Second), 30*time.Second)
		}
	case 5: // hops
		if msg.Attempt() == 1 {
			return c.fails(msg, kstage.RetryAfter(errNotYet, 25*time.Minute), 25*time.Minute)
		}
	case 6: // is asleep twice
		if c.snoozes[value]++; c.snoozes[value] < 3 {
			return c.fails(msg, kstage.Snooze(20*time.Second), 20*time.Second)
		}
	}
	c.handled[value]++
	return nil
}

// fails notes which copy, if any, will tell of the failure. c.mu is held.
func (c *climb) fails(msg kstage.Message, err error, asked time.Duration) error {
	if k := c.target(msg, asked, err); k <= len(threeStages) {
		id, now := c.copyID(msg.Record, fmt.Sprintf("g-retry-%d", k)), time.Now()
		f, again := c.failed[id]
		if !again {
			f = failing{first: now, delay: threeStages[k-1]}
		}
		f.last = now
		c.failed[id] = f
	} else {
		c.dying[string(msg.Value())] = true
	}
	if until := time.Now().Add(asked); asked > threeStages[2] && c.asleep[string(msg.Value())].IsZero() {
		c.asleep[string(msg.Value())] = until
	}
	return err
}

// target is the stage that a record goes to; behind the last: none.
func (c *climb) target(msg kstage.Message, asked time.Duration, err error) int {
	k := msg.Stage() + 1
	if _, ok := kstage.RetryDelay(err); ok {
		for k < len(threeStages) && threeStages[k-1] < asked {
			k++
		}
	}
	return k
}

func (c *climb) look(msg kstage.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, value := time.Now(), string(msg.Value())
	if until := c.asleep[value]; msg.Attempt() > 1 && now.Before(until) {
		c.wrong = append(c.wrong, fmt.Sprintf("%s: called %v before it asked to be", value, until.Sub(now)))
	}
	id := headerOf(msg.Record, "kstage-copy-id")
	f, ok := c.failed[id]
	switch {
	case id == "":
	case ok && now.Before(f.first.Add(f.delay)):
		c.wrong = append(c.wrong, fmt.Sprintf("%s: %v early at stage %d", value, f.first.Add(f.delay).Sub(now), msg.Stage()))
	case !ok && c.asleep[value].IsZero():
		c.wrong = append(c.wrong, fmt.Sprintf("%s: nobody knows where copy %s comes from", value, id))
	case ok && c.asleep[value].IsZero():
		c.late = max(c.late, now.Sub(f.last.Add(f.delay)))
	}
}

func (c *climb) come(opts ...kstage.ConsumerOption) *member {
	m := c.w.start(c.handle, append(append([]kstage.ConsumerOption{}, c.opts...), opts...)...)
	c.members, c.all = append(c.members, m), append(c.all, m)
	return m
}

func (c *climb) leave(i int) {
	m := c.members[i]
	c.members = append(c.members[:i:i], c.members[i+1:]...)
	require.NoError(c.w.t, m.stop())
}

// settled says that each record was handled, or has failed for the last time, and
// that nobody has any in hand.
func (c *climb) settled() bool {
	for _, m := range c.members {
		for _, s := range m.Stats().Partitions {
			if s.InFlight > 0 {
				return false
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.handled)+len(c.dying) == climbPartitions*climbRecords
}

// check looks at what has become of the records: none is lost, none was early.
func (c *climb) check() {
	t := c.w.t
	dead := map[string]bool{}
	for _, d := range c.w.deadLetters() {
		dead[string(d.Record.Value)] = true
		require.Equal(t, 4, d.Attempt)
		require.Equal(t, 3, d.Stage)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for p := range climbPartitions {
		for i := range climbRecords {
			v := fmt.Sprintf("%d/%d", p, i)
			require.Equal(t, i%8 > 1, c.handled[v] > 0, "%s", v)
			require.Equal(t, i%8 <= 1, dead[v], "%s", v)
		}
	}
	require.Empty(t, c.wrong[:min(3, len(c.wrong))])
	for _, m := range c.all {
		m.assertIdentity()
	}
}

// No call comes before the failure's time and the stage's delay, to the nanosecond,
// and with nothing in the way none comes much later. The bound: what is due is in
// memory a second before, so only handlers that hold a key or a worker (300 ms, some
// in a row) can make it late.
func TestLadderIsNeverEarly(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		c := newClimb(w, 1)
		c.come(kstage.WithWorkers(climbPartitions * climbRecords))
		w.everySecond(time.Hour, c.settled)
		c.leave(0)
		c.check()
		require.Less(w.t, c.late, 5*300*time.Millisecond)
		for _, v := range c.handled {
			require.Equal(w.t, 1, v, "nothing was handled twice")
		}
	})
}

// That holds while members come, go, and are thrown out. A record may then be late by
// the time that nobody is there (40 s) and what the group needs to find its owners,
// a session (45 s) at most, and the slow handlers of others before it.
func TestLadderIsNeverEarlyWhateverTheGroupDoes(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				c := newClimb(w, seed)
				rng := rand.New(rand.NewPCG(seed, 4))
				c.come()
				for range 25 {
					switch n := rng.IntN(10); {
					case len(c.members) == 0, n < 3 && len(c.members) < 3:
						c.come(kstage.WithWorkers(1 + rng.IntN(8)))
					case n < 5:
						c.leave(rng.IntN(len(c.members)))
					case n < 7:
						w.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Heartbeat}, Err: kerr.UnknownMemberID})
					}
					after(time.Duration(rng.Int64N(int64(40 * time.Second))))
				}
				if len(c.members) == 0 {
					c.come()
				}
				w.everySecond(2*time.Hour, c.settled)
				after(2 * time.Minute) // what a member gave up may not be in another's hands yet
				for len(c.members) > 0 {
					c.leave(0)
				}
				c.check()
				require.Less(w.t, c.late, 2*time.Minute)
			})
		})
	}
}

// A record that fails when the clock is between two milliseconds: headers and
// timestamps have no room for the rest, and may not make it early.
func TestLadderIsNotEarlyByTheRestOfAMillisecond(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic, opts := w.ladder(1)
		var j journal
		m := w.start(func(_ context.Context, msg kstage.Message) error {
			d := j.note(msg)
			switch d.Attempt {
			case 1:
				after(time.Until(d.At.Truncate(time.Millisecond).Add(10*time.Millisecond + 900*time.Microsecond)))
				return errNotYet
			case 2: // begins to hop
				after(time.Until(d.At.Truncate(time.Millisecond).Add(10*time.Millisecond + 900*time.Microsecond)))
				return kstage.RetryAfter(errNotYet, 25*time.Second)
			}
			return nil
		}, append(opts, w.stages(1, 5*time.Second, 10*time.Second), once())...)
		w.produce(record(topic, 0, "k", "v"))
		w.within(time.Hour, func() bool { return m.counts.Snapshot().Processed == 1 })
		calls := j.all()
		require.Len(t, calls, 3)
		for i, d := range []time.Duration{5 * time.Second, 25 * time.Second} {
			failed := calls[i].At.Truncate(time.Millisecond).Add(10*time.Millisecond + 900*time.Microsecond)
			require.GreaterOrEqual(t, calls[i+1].At.Sub(failed), d)
			require.Less(t, calls[i+1].At.Sub(failed), d+10*time.Millisecond)
		}
		require.NoError(t, m.stop())
		m.assertIdentity()
	})
}

// A partition that was not fetched is silent at first, while the broker waits for the
// other ones: what is due soon has to be there by then. So the second of two, which is
// fetched when the first is due soon, is on time.
func TestWhatIsDueSoonIsInMemory(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic, opts := w.ladder(2)
		var j journal
		m := w.start(failMain(&j), append(opts, w.stages(2, 10*time.Second), once())...)
		w.eventually(func() bool { return len(m.Stats().Partitions) == 4 })
		const n = 40
		for range n / 2 {
			w.produce(record(topic, 0, "k", "v"))
			after(60 * time.Millisecond)
			w.produce(record(topic, 0, "k", "v"))
			after(15*time.Second + 37*time.Millisecond) // another phase of the broker's wait each time
		}
		w.eventually(func() bool { return m.counts.Snapshot().Processed == n })
		failed := map[int64]time.Time{}
		for _, d := range j.all() {
			if d.Topic == topic {
				failed[d.Offset] = d.At
				continue
			}
			require.Less(t, d.At.Sub(failed[d.Offset]), 10*time.Second+20*time.Millisecond, "%v", d) // one key: offsets are alike
		}
		require.NoError(t, m.stop())
		m.assertIdentity()
	})
}
