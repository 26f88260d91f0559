//go:build synctests

package kstage_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kstage/kstage"
)

// crew is several members of one group on one topic, and what is known of
// their work: who handled what, what is finished, and each commit a broker saw.
type crew struct {
	w     *world
	topic string
	opts  []kstage.ConsumerOption

	mu       sync.Mutex // guards all below
	starts   []start
	finished map[int32]map[int64]int // times a handler returned nil
	dying    map[kstage.Coordinates]bool
	busy     map[string]string // partition and key -> who handles it
	overlaps []string
	commits  []committing
	past     []string // commits that pass an unfinished record, go back within an assignment, or come after it
	hands    map[string]*hand
	again    []string // finished records that are handled again
}

// start is one handler call.
type start struct {
	delivery
	who      string
	produced time.Time
}

// committing is one partition's part of an OffsetCommit request.
type committing struct {
	member    string
	partition int32
	offset    int64
	epoch     int32
	metadata  string
	at        time.Time
}

func newCrew(w *world, partitions int32) *crew {
	topic, opts := w.ladder(partitions)
	c := &crew{w: w, topic: topic, opts: opts, finished: map[int32]map[int64]int{}, dying: map[kstage.Coordinates]bool{}, busy: map[string]string{}, hands: map[string]*hand{}}
	for p := range partitions {
		c.finished[p] = map[int64]int{}
	}
	w.control(kmsg.OffsetCommit, func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.sawCommit(req.(*kmsg.OffsetCommitRequest))
		return nil, nil, false
	})
	return c
}

// control looks at, or answers, each request of a kind.
func (w *world) control(key kmsg.Key, fn func(kmsg.Request) (kmsg.Response, error, bool)) {
	w.fake.ControlKey(int16(key), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.fake.KeepControl()
		return fn(req)
	})
}

// blackhole swallows the requests for which match is true, while on.
func (w *world) blackhole(match func(kmsg.Request) bool) (on *atomic.Bool) {
	on = &atomic.Bool{}
	w.control(-1, func(req kmsg.Request) (kmsg.Response, error, bool) {
		return nil, nil, on.Load() && match(req)
	})
	return on
}

// ofKeys matches requests by kind.
func ofKeys(keys ...kmsg.Key) func(kmsg.Request) bool {
	return func(req kmsg.Request) bool {
		for _, k := range keys {
			if req.Key() == int16(k) {
				return true
			}
		}
		return false
	}
}

// mainOptions gives the consuming client options, and every client the way to the brokers.
func (w *world) mainOptions(opts ...kgo.Opt) kstage.ConsumerOption {
	return kstage.WithClientOptions(func(role kstage.ClientRole) []kgo.Opt {
		if role == kstage.RoleMain {
			return append(opts[:len(opts):len(opts)], w.reach...)
		}
		return w.reach
	})
}

func (c *crew) sawCommit(req *kmsg.OffsetCommitRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range req.Topics {
		for _, p := range t.Partitions {
			m := committing{req.MemberID, p.Partition, p.Offset, p.LeaderEpoch, "", time.Now()}
			if p.Metadata != nil {
				m.metadata = *p.Metadata
			}
			c.commits = append(c.commits, m)
			name, _, _ := strings.Cut(m.member, "-") // ids begin with the client's
			if h := c.hands[name]; h != nil && !h.has(m.partition) {
				c.past = append(c.past, fmt.Sprintf("%s commits %d/%d that it gave up", name, m.partition, m.offset))
			}
			if f := c.frontier(p.Partition); p.Offset > f {
				c.past = append(c.past, fmt.Sprintf("commit of %d/%d passes unfinished %d", p.Partition, p.Offset, f))
			}
		}
	}
}

// frontier is the first offset that nobody has finished or given up for dead
// (what becomes of those, other tests look at). c.mu is held.
func (c *crew) frontier(partition int32) int64 {
	for o := int64(0); ; o++ {
		if c.finished[partition][o] == 0 && !c.dying[kstage.Coordinates{Topic: c.topic, Partition: partition, Offset: o}] {
			return o
		}
	}
}

// seen are the commits so far.
func (c *crew) seen() []committing {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]committing(nil), c.commits...)
}

// calls are the handler calls so far, of all members or of one.
func (c *crew) calls(who string) (calls []start) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.starts {
		if who == "" || s.who == who {
			calls = append(calls, s)
		}
	}
	return calls
}

// done counts the finished records.
func (c *crew) done() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.finished {
		n += len(p)
	}
	return n
}

// noOverlap requires that no two handlers had one key at once.
func (c *crew) noOverlap() {
	c.w.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	require.Empty(c.w.t, c.overlaps)
}

// neverPast requires that no commit passed an unfinished record, went back, or
// was sent for a partition that had been given up.
func (c *crew) neverPast() {
	c.w.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	require.Empty(c.w.t, c.past[:min(3, len(c.past))])
}

// right requires that, and that no record was handled again that was below the
// first unfinished one when its partition came: true where none was lost.
func (c *crew) right() {
	c.w.t.Helper()
	c.neverPast()
	c.mu.Lock()
	defer c.mu.Unlock()
	require.Empty(c.w.t, c.again[:min(3, len(c.again))])
}

// hand is one member of the crew.
type hand struct {
	*member
	kstage.Counters

	name string
	crew *crew

	mu     sync.Mutex      // guards all below
	came   map[int32]int64 // the first unfinished offset when it was assigned
	sent   map[int32]int64 // committed, or tried to, since it was assigned
	events []assignment
	states []kstage.StateEvent
	fails  []kstage.CommittedEvent
}

// assignment is one event, and when it was told.
type assignment struct {
	kstage.AssignedEvent
	at time.Time
}

// join starts a member. work is its handler.
func (c *crew) join(name string, work kstage.HandlerFunc, opts ...kstage.ConsumerOption) *hand {
	c.w.t.Helper()
	h := &hand{name: name, crew: c, came: map[int32]int64{}, sent: map[int32]int64{}}
	c.mu.Lock()
	c.hands[name] = h
	c.mu.Unlock()
	all := append(append([]kstage.ConsumerOption{kstage.WithMetrics(h), kstage.WithClientID(name)}, c.opts...), opts...)
	h.member = c.w.start(h.handle(work), all...)
	h.counts = &h.Counters
	return h
}

func (h *hand) handle(work kstage.HandlerFunc) kstage.HandlerFunc {
	return func(ctx context.Context, msg kstage.Message) error {
		p, key := msg.Record.Partition, fmt.Sprintf("%d/%s", msg.Record.Partition, msg.Key())
		h.begin(msg, key)
		err := work(ctx, msg)
		h.crew.mu.Lock()
		defer h.crew.mu.Unlock()
		delete(h.crew.busy, key)
		switch {
		case err == nil:
			h.crew.finished[p][msg.Record.Offset]++
		case kstage.IsPermanent(err) && ctx.Err() == nil:
			h.crew.dying[kstage.Coordinates{Topic: h.crew.topic, Partition: p, Offset: msg.Record.Offset}] = true
		}
		return err
	}
}

func (h *hand) begin(msg kstage.Message, key string) {
	c, r := h.crew, msg.Record
	h.mu.Lock()
	came := h.came[r.Partition]
	h.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.starts = append(c.starts, start{
		delivery{r.Topic, r.Partition, r.Offset, string(r.Key), msg.Attempt(), time.Now()}, h.name, r.Timestamp,
	})
	if other := c.busy[key]; other != "" {
		c.overlaps = append(c.overlaps, fmt.Sprintf("%s and %s at once on %s", other, h.name, key))
	}
	c.busy[key] = h.name
	if r.Offset < came {
		c.again = append(c.again, fmt.Sprintf("%s handles %d/%d again: it came when all below %d was finished", h.name, r.Partition, r.Offset, came))
	}
}

// Assigned implements kstage.MetricsCollector.
func (h *hand) Assigned(e kstage.AssignedEvent) {
	h.Counters.Assigned(e)
	h.crew.mu.Lock()
	defer h.crew.mu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, assignment{e, time.Now()})
	for _, p := range e.Partitions {
		if e.Kind == kstage.PartitionsAssigned {
			h.came[p], h.sent[p] = h.crew.frontier(p), 0
		} else {
			delete(h.came, p)
		}
	}
}

// StateChanged implements kstage.MetricsCollector.
func (h *hand) StateChanged(e kstage.StateEvent) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.states = append(h.states, e)
}

// Committed implements kstage.MetricsCollector.
func (h *hand) Committed(e kstage.CommittedEvent) {
	h.crew.mu.Lock()
	defer h.crew.mu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	if last := h.sent[e.Partition]; e.Offset < last {
		h.crew.past = append(h.crew.past, fmt.Sprintf("%s commits %d/%d after %d", h.name, e.Partition, e.Offset, last))
	}
	h.sent[e.Partition] = e.Offset
	if e.Err != nil {
		h.fails = append(h.fails, e)
	}
}

// told are the events of a kind so far.
func (h *hand) told(k kstage.AssignmentKind) (es []assignment) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events {
		if e.Kind == k {
			es = append(es, e)
		}
	}
	return es
}

// failedCommits are the commits that were told to have failed.
func (h *hand) failedCommits() []kstage.CommittedEvent {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]kstage.CommittedEvent(nil), h.fails...)
}

// changes are the comings (true) and goings of a kind of reason.
func (h *hand) changes(k kstage.ReasonKind) (came []bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.states {
		if e.Reason.Kind == k {
			came = append(came, !e.Cleared)
		}
	}
	return came
}

// has says that a partition came and did not go.
func (h *hand) has(partition int32) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, ok := h.came[partition]
	return ok
}

// owns are the partitions that came and did not go, by the events.
func (h *hand) owns() map[int32]bool {
	h.crew.w.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	owned := map[int32]bool{}
	for _, e := range h.events {
		for _, p := range e.Partitions {
			came := e.Kind == kstage.PartitionsAssigned
			require.NotEqual(h.crew.w.t, came, owned[p], "partition %d: %v out of turn", p, e.Kind)
			owned[p] = came
			if !came {
				delete(owned, p)
			}
		}
	}
	return owned
}

// memberIDs are those of the group now.
func (c *crew) memberIDs() (ids []string) {
	if g := c.w.fake.GroupInfo(c.w.name("g")); g != nil {
		for _, m := range g.Members {
			ids = append(ids, m.MemberID)
		}
	}
	return ids
}

// stored is the group's offset of a partition; -1: none, or no group yet.
func (c *crew) stored(partition int32) int64 {
	if g := c.w.fake.GroupInfo(c.w.name("g")); g != nil {
		if o, ok := g.Commits[c.topic][partition]; ok {
			return o.Offset
		}
	}
	return -1
}

// threeBrokers is a world where leaders and coordinators can move.
func threeBrokers() []kfake.Opt {
	return []kfake.Opt{kfake.NumBrokers(3), kfake.Ports(9001, 9002, 9003)}
}

// cancelled waits for ctx and fails with it: a handler that heeds it.
func cancelled(ctx context.Context) error {
	<-ctx.Done()
	return context.Cause(ctx)
}
