package lanes_test

import (
	"fmt"
	"hash/maphash"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kstage/kstage/internal/lanes"
	"github.com/kstage/kstage/internal/offsets"
)

// world is a pool and the truth about each of its records.
type world struct {
	*lanes.Pool[*fetch]
	workers int
	order   func(r *record) (key string, ok bool)
	seed    maphash.Seed
	parts   []*part

	inside atomic.Int64   // records in Run or Unwound
	open   sync.WaitGroup // records that left and are not resolved, fences that are not idle

	mu     sync.Mutex
	faults []string
}

// part is one partition.
type part struct {
	w       *world
	lane    *lanes.Partition[*fetch]
	fencing atomic.Bool // the fence is near: records may be given up

	mu        sync.Mutex // guards what follows, and of records all but told and due. Taken before the pool's, never inside it
	tracker   offsets.Tracker
	mark      offsets.Mark
	next      int64 // offset
	records   []*record
	verified  int                // so many of records are known to be finished
	busy      map[string]*record // running or parked, by key
	last      map[string]int64   // started, by key
	survivors map[*record]bool   // non-nil: fenced; those in progress, the only ones that may still start
	idle      bool               // the fence's channel is closed
}

// fetch is a batch.
type fetch struct {
	records []*record
	done    *offsets.Batch
	drained atomic.Int32
}

type record struct {
	deed
	p      *part
	b      *fetch
	i      int
	offset int64
	key    string // "": none

	state    state
	attempts int
	held     bool
	finished bool

	told atomic.Int32 // times that Ended said so
	due  atomic.Int32 // times that it may
}

type state string

const (
	fresh    state = "fresh"
	running  state = "running"
	parked   state = "parked"
	over     state = "over" // maybe not finished: it left
	released state = "released"
	dropped  state = "dropped"
)

// fault notes what must not be. Any goroutine may call it.
func (w *world) fault(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.faults) < 10 {
		w.faults = append(w.faults, fmt.Sprintf(format, args...))
	}
}

func newWorld(workers, intakes, parts int, order func(r *record) (string, bool)) *world {
	w := &world{workers: workers, order: order, seed: maphash.MakeSeed()}
	w.Pool = lanes.New(workers, intakes, lanes.Work[*fetch]{Run: w.run, Unwound: w.unwound, Ended: w.ended, Key: w.key})
	for n := range parts {
		w.parts = append(w.parts, &part{w: w, lane: w.Partition(n % 2), busy: map[string]*record{}, last: map[string]int64{}})
	}
	return w
}

func (w *world) key(b *fetch, i int) (uint64, bool) {
	r := b.records[i]
	if r.told.Load() > 0 {
		w.fault("%v: asked for the key of a record that Ended was told of", r)
	}
	k, ok := w.order(r)
	return maphash.String(w.seed, k), ok
}

func (w *world) ended(b *fetch, from, end int) {
	for _, r := range b.records[from:end] {
		if told := r.told.Add(1); told > r.due.Load() {
			w.fault("%v: Ended is told %d times, of %d attempts", r, told, r.due.Load())
		}
	}
	if _, drained := b.done.End(from, end); drained && b.drained.Add(1) != 1 {
		w.fault("%v: drained twice", b.records[from])
	}
}

func (w *world) run(b *fetch, i int) time.Duration {
	r := b.records[i]
	w.begin(r)
	r.work()
	return w.settle(r)
}

func (w *world) unwound(b *fetch, i int, v any) time.Duration {
	r := b.records[i]
	if fmt.Sprintf("%T", v) != r.death.value() {
		w.fault("%v: %s, but unwound with %v", r, r.death, v)
	}
	return w.settle(r)
}

// begin checks that a record may run now.
func (w *world) begin(r *record) {
	if n := w.inside.Add(1); n > int64(w.workers) {
		w.fault("%v: %d at once", r, n)
	}
	p := r.p
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.idle:
		w.fault("%v: starts when the partition is idle", r)
	case p.survivors != nil && !p.survivors[r]:
		w.fault("%v: starts after the fence", r)
	case r.state != fresh && r.state != parked:
		w.fault("%v: starts again", r)
	}
	if k, ok := w.order(r); ok {
		p.enter(r, k)
	}
	r.state = running
	r.attempts++
}

func (p *part) enter(r *record, k string) {
	if other := p.busy[k]; other != nil && other != r {
		p.w.fault("%v: overlaps %v", r, other)
	}
	if last, ok := p.last[k]; ok && (last > r.offset || last == r.offset && r.attempts == 0) {
		p.w.fault("%v: starts after %d", r, last)
	}
	p.busy[k], p.last[k] = r, r.offset
}

// settle answers an attempt.
func (w *world) settle(r *record) time.Duration {
	defer w.inside.Add(-1)
	p := r.p
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.releases && p.fencing.Load() {
		r.state = released
		return lanes.Never
	}
	r.due.Add(1)
	if r.parks > 0 {
		r.parks--
		r.state = parked
		p.hold(r)
		return r.wait
	}
	r.state = over
	p.leave(r)
	if r.leaves {
		p.hold(r)
		w.open.Add(1)
		time.AfterFunc(r.wait, func() { defer w.open.Done(); p.mu.Lock(); defer p.mu.Unlock(); p.finish(r) })
		return 0
	}
	p.finish(r)
	return 0
}

func (p *part) hold(r *record) {
	if !r.held {
		r.held = true
		p.tracker.Hold(r.b.done, r.i)
	}
}

func (p *part) finish(r *record) {
	r.finished = true
	if r.held {
		p.tracker.Resolve(r.b.done, r.i)
	}
}

// leave lets the key of a record go on.
func (p *part) leave(r *record) {
	if k, ok := p.w.order(r); ok && p.busy[k] == r {
		delete(p.busy, k)
	}
}

// receive adds records behind all earlier ones.
func (p *part) receive(rs []*record) {
	b := &fetch{records: rs}
	at := make([]int64, len(rs))
	for i, r := range rs {
		r.p, r.b, r.i, at[i] = p, b, i, r.offset
	}
	b.done = offsets.NewBatch(at, int32(len(p.records)))
	p.mu.Lock()
	p.records = append(p.records, rs...)
	p.tracker.Add(b.done)
	p.mu.Unlock()
	p.lane.Add(b, 0, len(rs))
}

// drop tries to end a record that is parked.
func (p *part) drop(r *record) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r.due.Add(1)
	if !p.lane.Drop(r.b, r.i) {
		r.due.Add(-1)
		return
	}
	if r.state != parked {
		p.w.fault("%v: dropped", r)
	}
	r.state = dropped
	p.leave(r)
	p.finish(r)
}

func (p *part) fence() {
	idle := p.lane.Fence()
	survivors := map[*record]bool{}
	p.lane.Running(func(b *fetch, i int) { survivors[b.records[i]] = true })
	p.mu.Lock()
	p.survivors = survivors
	p.mu.Unlock()
	p.w.open.Go(func() {
		<-idle
		p.mu.Lock()
		defer p.mu.Unlock()
		p.idle = true
		for _, r := range p.records {
			if r.state == running {
				p.w.fault("%v: runs, yet the partition is idle", r)
			}
		}
	})
}

// check compares what may be committed with the truth, and says whether that is everything.
func (p *part) check() (all bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m, ok := p.tracker.Mark()
	if ok && m.Offset < p.mark.Offset {
		p.w.fault("mark goes back from %v to %v", p.mark, m)
	}
	p.mark = m
	for ; p.verified < len(p.records) && p.records[p.verified].offset < m.Offset; p.verified++ {
		if r := p.records[p.verified]; !r.finished {
			p.w.fault("%v: not finished, yet the mark is %v", r, m)
		}
	}
	return p.verified == len(p.records)
}

// inProgress checks what Running says.
func (w *world) inProgress() {
	seen := map[*record]bool{}
	for _, p := range w.parts {
		p.lane.Running(func(b *fetch, i int) {
			if seen[b.records[i]] {
				w.fault("%v: in progress twice", b.records[i])
			}
			seen[b.records[i]] = true
		})
	}
}

// audit checks the end of a partition that is idle.
func (p *part) audit() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.records {
		told, due := r.told.Load(), r.due.Load()
		switch {
		case r.state == fresh && (told != 0 || p.survivors == nil), p.survivors == nil && !r.finished:
			p.w.fault("%v: lost", r)
		case (r.state == over || r.state == dropped) && told != due:
			p.w.fault("%v: Ended is told %d times, not %d", r, told, due)
		}
	}
}

func (r *record) String() string {
	return fmt.Sprintf("record %d key %q, %s, attempt %d", r.offset, r.key, r.state, r.attempts)
}

// deed is what a record does when it runs.
type deed struct {
	pace     pace
	death    death
	parks    int // so often it waits before it ends
	wait     time.Duration
	leaves   bool // is open when it has ended
	releases bool // is given up when a fence is near
}

type pace int

const (
	instant pace = iota
	yielding
	slowly
)

type death string

const (
	returns     death = ""
	panics      death = "panic"
	panicsNil   death = "panic(nil)"
	exits       death = "Goexit"
	exitsInFear death = "panic in a Goexit"
)

// value is the type that Unwound is told.
func (d death) value() string {
	return map[death]string{panics: "string", panicsNil: "*runtime.PanicNilError", exits: "<nil>", exitsInFear: "string"}[d]
}

func (d *deed) work() {
	switch d.pace {
	case yielding:
		runtime.Gosched()
	case slowly:
		<-time.After(d.wait)
	case instant:
	}
	switch d.death {
	case panics:
		panic("fear")
	case panicsNil:
		panic(nil) //nolint:govet // nilness: on purpose
	case exitsInFear:
		defer panic("fear")
		runtime.Goexit()
	case exits:
		runtime.Goexit()
	case returns:
	}
}
