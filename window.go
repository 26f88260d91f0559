package kstage

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage/internal/lanes"
	"github.com/kstage/kstage/internal/offsets"
)

type topicPartition struct {
	topic     string
	partition int32
}

// window is one assignment of one partition: what was received and is not yet
// finished. It is never revived: who meets a dead one (a handler that returns
// late, an acknowledgement) changes nothing that counts.
type window struct {
	topicPartition
	intake *intake
	ctx    context.Context // the handlers'; ends with the assignment's cause
	cancel context.CancelCauseFunc
	lane   *lanes.Partition[*batch]

	fenced atomic.Bool  // draining or dead: nothing new is started
	gone   atomic.Bool  // dead; as dead below, for those who do not hold mu
	bytes  atomic.Int64 // of batches that are not drained, and of held copies
	count  atomic.Int64 // records of those, held copies included

	mu        sync.Mutex // guards everything below; never held over I/O or user code
	tracker   offsets.Tracker
	dead      bool               // forgotten: nothing is committed for it any more
	expected  int64              // the next offset; -1: not known yet
	logEnd    int64              // high watermark of the last fetch
	held      map[int64]*held    // by offset: open records, each with a copy of its own
	flying    int                // of held: copies produced and not yet answered
	landed    chan struct{}      // non-nil: somebody waits for flying to be 0; closed then
	givenUp   []offsets.Position // records whose handler returned to no effect: told of, and to be handled again
	head      int64              // oldest unfinished offset at the committer's last look; -1: none
	headAt    time.Time          // when it became that
	committed int64              // last committed offset; -1: none. Written inside the commit gate only

	stuckAt int64    // offset that was reported as stuck, -1: none. The committer's own
	reasons pauseSet // guarded by intake.mu, as is paused
	paused  bool     // in the client
}

// batch is the records of one fetch of one partition and one leader epoch.
// Immutable, but that records and messages go when it is drained.
type batch struct {
	w        *window
	records  []*kgo.Record
	messages []Message
	done     *offsets.Batch
	size     int64
	debug    bool         // per-record log lines are wanted
	holding  atomic.Int32 // records of it that are held: lets run look for copies only where there are any
}

// held is a record that is open: parked, running again, or leaving. Its copy
// keeps nothing of the fetched batch alive. Fields are guarded by window.mu,
// but record and facts, which are immutable while state says running or leaving.
type held struct {
	b       *batch
	i       int
	record  *kgo.Record
	size    int64
	state   heldState
	facts   facts
	retries int      // immediate retries so far
	blocks  int      // times it was blocked
	message *Message // of the running attempt
}

type heldState int

const (
	heldParked  heldState = iota + 1 // its key waits in lanes
	heldRunning                      // its handler runs again
	heldLeaving                      // its copy is in the hand-off's hands
)

func newWindow(in *intake, tp topicPartition) *window {
	w := &window{topicPartition: tp, intake: in, expected: -1, logEnd: -1, committed: -1, head: -1, stuckAt: -1, held: map[int64]*held{}}
	w.ctx, w.cancel = context.WithCancelCause(in.base)
	w.lane = in.pool.Partition(in.number)
	return w
}

// admit takes a fetch's records: registered with the tracker, then queued. False
// where the window is dead. Called by the poll goroutine, while it blocks rebalances.
func (w *window) admit(topicID [16]byte, rs []*kgo.Record, debug bool) (bytes int64, ok bool) {
	batches := make([]*batch, 0, 1)
	for rest := rs; len(rest) > 0; {
		n := oneEpoch(rest)
		b := w.newBatch(topicID, rest[:n:n], debug)
		batches = append(batches, b)
		bytes += b.size
		rest = rest[n:]
	}
	if !w.register(batches, rs[len(rs)-1].Offset+1) {
		return 0, false
	}
	for _, b := range batches {
		w.lane.Add(b, 0, len(b.messages))
	}
	return bytes, true
}

// register makes the tracker know of batches; false where the window is dead.
func (w *window) register(batches []*batch, next int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead {
		return false
	}
	for _, b := range batches {
		w.tracker.Add(b.done)
		w.bytes.Add(b.size)
		w.count.Add(int64(len(b.records)))
	}
	w.expected = next
	return true
}

// oneEpoch counts the records at the start of rs that have one leader epoch.
func oneEpoch(rs []*kgo.Record) int {
	for i, r := range rs {
		if r.LeaderEpoch != rs[0].LeaderEpoch {
			return i
		}
	}
	return len(rs)
}

func (w *window) newBatch(topicID [16]byte, rs []*kgo.Record, debug bool) *batch {
	b := &batch{w: w, records: rs, messages: make([]Message, len(rs)), debug: debug}
	first := &facts{topicID: topicID, attempt: 1}
	for i, r := range rs {
		b.messages[i] = Message{Record: r, facts: first}
		b.size += recordSize(r)
	}
	b.done = trackedBatch(rs)
	return b
}

// recordSize is what a record counts: its own bytes, decompressed.
func recordSize(r *kgo.Record) int64 {
	n := len(r.Key) + len(r.Value)
	for i := range r.Headers {
		n += len(r.Headers[i].Key) + len(r.Headers[i].Value)
	}
	return int64(n)
}

func trackedBatch(rs []*kgo.Record) *offsets.Batch {
	first, last, epoch := rs[0].Offset, rs[len(rs)-1].Offset, rs[0].LeaderEpoch
	if last-first == int64(len(rs)-1) {
		return offsets.NewDense(first, len(rs), epoch)
	}
	os := make([]int64, len(rs))
	for i, r := range rs {
		os[i] = r.Offset
	}
	return offsets.NewBatch(os, epoch)
}

// ended is lanes' report: handlers of records from..end-1 have returned for good
// or are parked with a copy. The last such report of a batch frees its memory.
// The pool's lock is held: only atomics are touched.
func (b *batch) ended(from, end int) {
	if !b.done.End(from, end) {
		return
	}
	b.w.bytes.Add(-b.size)
	b.w.count.Add(-int64(len(b.records)))
	b.records, b.messages = nil, nil
	b.w.intake.nudge()
}

// hold opens record i of b: its copy is kept until resolve, and nothing past it
// is committed meanwhile. False: the window is draining or dead and no attempt
// may follow this one; only leaving records are still held while it drains.
func (w *window) hold(h *held, state heldState) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead || state == heldParked && w.fenced.Load() {
		return false
	}
	h.state, h.message = state, nil
	o := h.record.Offset
	if w.held[o] == nil {
		w.held[o] = h
		w.tracker.Hold(h.b.done, h.i)
		h.b.holding.Add(1)
		w.bytes.Add(h.size)
		w.count.Add(1)
	}
	return true
}

// rerun returns the held copy of a record whose handler is called again; nil for a first call.
func (w *window) rerun(b *batch, i int) *held {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.held[b.done.Offset(i)]
	if h == nil {
		return nil
	}
	h.state = heldRunning
	if h.blocks == 0 { // calls of a blocked record are no attempts
		h.facts.attempt++
	}
	f := h.facts
	h.message = &Message{Record: h.record, facts: &f}
	return h
}

// heldCopy returns the held copy of a record whose handler runs again; nil when it
// runs for the first time.
func (w *window) heldCopy(b *batch, i int) *held {
	if b.holding.Load() == 0 {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.held[b.done.Offset(i)]
}

// resolve finishes a held record. False: the window is dead, which makes it stale.
func (w *window) resolve(h *held) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead {
		if h.state == heldRunning {
			w.givenUp = append(w.givenUp, offsets.Position{Batch: h.b.done, I: h.i})
		}
		return false
	}
	w.tracker.Resolve(h.b.done, h.i)
	delete(w.held, h.record.Offset)
	h.b.holding.Add(-1)
	w.bytes.Add(-h.size)
	w.count.Add(-1)
	w.intake.nudge()
	return true
}

// setFlying tells that a leaving record's copy was given to the client, or was answered.
func (w *window) setFlying(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flying += n
	if w.flying == 0 && w.landed != nil {
		close(w.landed)
		w.landed = nil
	}
}

// allLanded is closed when no copy of the window is on its way to a broker.
// Copies that wait for a back-off do not count.
func (w *window) allLanded() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.landed == nil {
		w.landed = make(chan struct{})
		if w.flying == 0 {
			c := w.landed
			w.landed = nil
			close(c)
			return c
		}
	}
	return w.landed
}

// fence lets no new attempt start. The channel is closed when no handler of the window runs.
func (w *window) fence() <-chan struct{} {
	w.fenced.Store(true)
	return w.lane.Fence()
}

// forget makes the window dead and returns how many records it gives back
// unfinished. The caller holds the commit gate, so no commit is under way.
//
// Each record is told of once: here, or by its handler's return. Those whose
// handler runs, or has returned to no effect, are therefore not counted here.
func (w *window) forget() (unfinished int) {
	w.mu.Lock()
	w.dead = true
	w.gone.Store(true)
	w.mu.Unlock()
	running := w.running()
	w.mu.Lock()
	defer w.mu.Unlock()
	told := slices.DeleteFunc(append(running, w.givenUp...), func(at offsets.Position) bool {
		h := w.held[at.Batch.Offset(at.I)]
		return h != nil && h.state != heldRunning // parked or leaving by now
	})
	return w.tracker.UnfinishedExcept(told)
}

// running lists the records whose handler runs.
func (w *window) running() (ps []offsets.Position) {
	w.lane.Running(func(b *batch, i int) { ps = append(ps, offsets.Position{Batch: b.done, I: i}) })
	return ps
}

// giveUp notes that a handler returned to no effect, and is told of.
func (w *window) giveUp(b *batch, i int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.givenUp = append(w.givenUp, offsets.Position{Batch: b.done, I: i})
}

// mark is what may be committed and was not yet; false when nothing moved.
// Offsets only go forward within one assignment.
func (w *window) mark() (offsets.Mark, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m, ok := w.tracker.Mark()
	return m, ok && !w.dead && m.Offset > w.committed
}

func (w *window) setCommitted(offset int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.committed = max(w.committed, offset)
}

// fetched is told the group's committed offset, before the first record comes; -1: none.
func (w *window) fetched(offset int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.expected < 0 {
		w.expected, w.committed = offset, offset
	}
}

// full says whether the window has reached one of its bounds.
func (w *window) full(bound Window) bool {
	return w.count.Load() >= int64(bound.Records) || w.bytes.Load() >= bound.Bytes || w.span() >= bound.Span
}

// roomy says whether the window is half empty again, by every bound.
func (w *window) roomy(bound Window) bool {
	return w.count.Load() <= int64(bound.Records/2) && w.bytes.Load() <= bound.Bytes/2 && w.span() <= bound.Span/2
}

// span counts the received records from the oldest unfinished one on.
func (w *window) span() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tracker.Mark()
	return w.tracker.Span()
}

// inProgress lists the records whose handler runs, or whose copy no broker has
// acknowledged. Called when the shutdown's limits have passed.
func (w *window) inProgress() []Coordinates {
	var offs []int64
	for _, at := range w.running() {
		offs = append(offs, at.Batch.Offset(at.I))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for o, h := range w.held {
		if h.state == heldLeaving && !w.dead {
			offs = append(offs, o)
		}
	}
	slices.Sort(offs)
	cs := make([]Coordinates, 0, len(offs))
	for _, o := range slices.Compact(offs) {
		cs = append(cs, Coordinates{w.topic, w.partition, o})
	}
	return cs
}

// stuck returns the oldest unfinished offset and since when it is that; false when there is none.
func (w *window) stuck(now time.Time) (offset int64, since time.Time, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tracker.Mark()
	head, ok := w.tracker.Head()
	if !ok {
		w.head = -1
		return 0, time.Time{}, false
	}
	if head != w.head {
		w.head, w.headAt = head, now
	}
	return head, w.headAt, true
}

// copyRecord copies r with all its bytes, in one piece: what it returns keeps
// nothing of the fetched batch alive. Nil stays nil, empty stays empty.
func copyRecord(r *kgo.Record) *kgo.Record {
	buf := make([]byte, 0, recordSize(r))
	dup := func(b []byte) []byte {
		if b == nil {
			return nil
		}
		n := len(buf)
		buf = append(buf, b...)
		return buf[n:len(buf):len(buf)]
	}
	c := &kgo.Record{
		Key: dup(r.Key), Value: dup(r.Value), Timestamp: r.Timestamp, Topic: r.Topic, Partition: r.Partition,
		Attrs: r.Attrs, ProducerEpoch: r.ProducerEpoch, ProducerID: r.ProducerID,
		LeaderEpoch: r.LeaderEpoch, Offset: r.Offset, Context: r.Context,
	}
	if r.Headers != nil {
		c.Headers = make([]kgo.RecordHeader, len(r.Headers))
		for i, h := range r.Headers {
			c.Headers[i] = kgo.RecordHeader{Key: strings.Clone(h.Key), Value: dup(h.Value)}
		}
	}
	return c
}
