package kstage

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage/internal/hook"
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
	stage  *stageReader    // of a retry partition; nil: a main topic's
	ctx    context.Context // the handlers'; ends with the assignment's cause
	cancel context.CancelCauseFunc
	lane   *lanes.Partition[*batch]

	fenced atomic.Bool  // draining or dead: nothing new is started
	gone   atomic.Bool  // dead; as dead below, for those who do not hold mu
	bytes  atomic.Int64 // of batches that are not drained, and of held copies
	count  atomic.Int64 // records of those, held copies included
	late   atomic.Int64 // how far the last record was past its due time when it was handled; nanoseconds

	mu        sync.Mutex // guards everything below; never held over I/O or user code
	tracker   offsets.Tracker
	line      dueLine         // of a retry partition
	claims    map[int64]*lent // by offset: of records whose handler runs, will run again, or whose copy leaves; nil: none yet
	dead      bool            // forgotten: nothing is committed for it any more
	expected  int64           // the next offset; -1: not known yet
	logEnd    int64           // high watermark of the last fetch
	held      heldSet         // open records, each with a copy of its own
	flying    int             // of held: copies produced and not yet answered
	landed    chan struct{}   // non-nil: somebody waits for flying to be 0; closed then
	givenUp   []place         // records whose handler returned to no effect: told of, and to be handled again
	head      int64           // oldest unfinished offset at the committer's last look; -1: none
	headAt    time.Time       // when it became that
	committed int64           // last committed offset; -1: none. Written inside the commit gate only

	stuckAt int64    // offset that was reported as stuck, -1: none. The committer's own
	reasons pauseSet // guarded by intake.mu, as is paused
	paused  bool     // in the client
}

// batch is the records of one fetch of one partition and one leader epoch.
// Immutable, but that records go when it is drained.
type batch struct {
	w       *window
	ctx     context.Context // the window's
	records []*kgo.Record
	first   *facts  // of all messages of first calls, where they share one
	facts   []facts // else: of each
	done    *offsets.Batch
	size    int64
	debug   bool         // per-record log lines are wanted
	plain   bool         // a first call needs the handler and nothing else, see pipeline.run
	pages   []*heldPage  // of heldSet
	holding atomic.Int32 // records of it that are held, written by heldSet: lets run look for copies only where there are any
}

func newWindow(in *intake, tp topicPartition) *window {
	w := &window{topicPartition: tp, intake: in, expected: -1, logEnd: -1, committed: -1, head: -1, stuckAt: -1}
	w.ctx, w.cancel = context.WithCancelCause(in.base)
	w.lane = in.pool.Partition(in.feed.number)
	w.stage = in.feed.stages[tp.topic]
	return w
}

// admit takes a fetch's records: registered with the tracker, then queued, or in
// line until they are due. False where the window is dead. Called by the poll
// goroutine, while it blocks rebalances.
func (w *window) admit(topicID [16]byte, rs []*kgo.Record, debug bool) (bytes int64, ok bool) {
	first := &facts{topicID: topicID, attempt: 1, identify: w.intake.identify}
	batches := make([]*batch, 0, 1)
	for rest := rs; len(rest) > 0; {
		b := w.newBatch(first, rest, debug)
		batches = append(batches, b)
		bytes += b.size
		rest = rest[len(b.records):]
	}
	if !w.register(batches, rs[len(rs)-1].Offset+1) {
		return 0, false
	}
	hook.Stretch(hook.BeforeQueue)
	if w.stage != nil {
		w.advance()
		return bytes, true
	}
	for _, b := range batches {
		w.lane.Add(b, 0, len(b.records))
	}
	return bytes, true
}

// advance gives lanes what is due and stops fetching, or goes on with it, as the
// rest asks for. Called by the poll goroutine, and by the line's timer.
func (w *window) advance() {
	w.mu.Lock()
	now := hook.Now(w.ctx)
	w.line.advance(now, w.lane.Add) // under mu: in the order of offsets, whoever comes first
	w.line.watch(now, w.advance)
	w.mu.Unlock()
	w.intake.delay(w)
}

// far says that more need not be fetched yet.
func (w *window) far() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, far := w.line.far(hook.Now(w.ctx))
	return far
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
	if w.stage != nil {
		w.line.batches = append(w.line.batches, batches...)
	}
	w.expected = next
	return true
}

// newBatch takes the records at the start of rs that have one leader epoch. They
// are looked at once: this is the poll loop's share of a record's cost.
func (w *window) newBatch(first *facts, rs []*kgo.Record, debug bool) *batch {
	rs = oneEpoch(rs)
	b := &batch{w: w, ctx: w.ctx, records: rs, first: first, done: trackedBatch(rs), debug: debug, plain: w.intake.plain && !debug}
	size := int64(0) // a variable: what a pointer leads to is stored with each record
	for _, r := range rs {
		size += recordSize(r)
	}
	b.size = size
	if w.stage != nil {
		b.facts = w.readFacts(first.topicID, rs)
	}
	return b
}

func (w *window) readFacts(topicID [16]byte, rs []*kgo.Record) []facts {
	now, fs, more := hook.Now(w.ctx), make([]facts, len(rs)), make([]retryFacts, len(rs))
	for i, r := range rs {
		fs[i], more[i] = w.stage.factsOf(r, topicID, now)
		fs[i].retry = &more[i]
	}
	return fs
}

// oneEpoch returns the records at the start of rs that have one leader epoch. It
// looks at two in nearly every case: epochs only grow along a log.
func oneEpoch(rs []*kgo.Record) []*kgo.Record {
	n := len(rs)
	if rs[0].LeaderEpoch != rs[n-1].LeaderEpoch {
		n = slices.IndexFunc(rs, func(r *kgo.Record) bool { return r.LeaderEpoch != rs[0].LeaderEpoch })
	}
	return rs[:n:n]
}

// message is the one of a record's first call.
func (b *batch) message(i int) Message {
	if b.facts != nil {
		return Message{b.records[i], &b.facts[i]}
	}
	return Message{b.records[i], b.first}
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
	n, drained := b.done.End(from, end)
	if c := b.w.intake.counters; c != nil {
		c.processed.Add(uint64(n)) // all but those that settle has set apart, and told
	}
	if !drained {
		return
	}
	b.w.bytes.Add(-b.size)
	b.w.count.Add(-int64(len(b.records)))
	b.records = nil
	b.w.intake.nudge()
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
	w.line.close()
	w.mu.Unlock()
	running := w.running()
	w.mu.Lock()
	defer w.mu.Unlock()
	told := slices.DeleteFunc(append(running, w.givenUp...), func(at place) bool {
		h := w.held.at(at)
		return h != nil && h.state != heldRunning // parked or leaving by now
	})
	w.giveClaimsBack(told)
	var not []offsets.Position
	for _, at := range told {
		not = append(not, offsets.Position{Batch: at.b.done, I: at.i})
	}
	return w.tracker.Unfinished(not...)
}

// running lists the records whose handler runs.
func (w *window) running() (ps []place) {
	w.lane.Running(func(b *batch, i int) { ps = append(ps, place{b, i}) })
	return ps
}

// giveUp notes that a handler returned to no effect, and is told of.
func (w *window) giveUp(b *batch, i int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.givenUp = append(w.givenUp, place{b, i})
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
		offs = append(offs, at.offset())
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for h := range w.held.all {
		if h.state == heldLeaving && !w.dead {
			offs = append(offs, h.record.Offset)
		}
	}
	slices.Sort(offs)
	cs := make([]Coordinates, 0, len(offs))
	for _, o := range slices.Compact(offs) {
		cs = append(cs, Coordinates{w.topic, w.partition, o})
	}
	return cs
}

// stuck returns the oldest unfinished offset and since when it is that; false when
// there is none, or it waits to be due.
func (w *window) stuck(now time.Time) (offset int64, since time.Time, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tracker.Mark()
	head, ok := w.tracker.Head()
	if _, first, waits := w.line.head(); !ok || waits && first <= head {
		w.head = -1
		return 0, time.Time{}, false
	}
	if head != w.head {
		w.head, w.headAt = head, now
	}
	return head, w.headAt, true
}
