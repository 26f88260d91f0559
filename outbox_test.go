package kstage_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"pgregory.net/rapid"

	"github.com/kstage/kstage"
)

const (
	dlqPartitions = 2
	errorBytes    = 100 // of a copy that has its error's text
)

// postWorld is a hand-off and a broker of two partitions, which behaves as the
// client makes one look: of what it holds of a partition a first part is
// written, and all the rest fails together.
type postWorld struct {
	t       *rapid.T
	post    *kstage.Post
	limit   int        // of a batch
	mu      sync.Mutex // guards all below and the assignments: copies come from several goroutines
	given   [dlqPartitions][]parcel
	wrong   []string    // what was given and should not have been
	byBirth []*assigned // every assignment there was
	written []parcel
	large   map[origin]bool // had to be made smaller, or to wait: out of order
}

// assigned is an assignment and what the test knows of its records.
type assigned struct {
	*kstage.Assignment
	partition int32
	offsets   []int64 // not yet failed
	dead      bool
	skipped   map[int64]bool
	values    map[int64]int
}

type origin struct {
	a      *assigned
	offset int64
}

// parcel is a copy that was given to the client.
type parcel struct {
	origin

	r       *kgo.Record
	promise func(*kgo.Record, error)
}

func (p parcel) size() int {
	n := len(p.r.Value)
	if headerOfCopy(p.r, "kstage-error") != "" {
		n += errorBytes
	}
	return n
}

func headerOfCopy(r *kgo.Record, key string) string {
	for _, h := range r.Headers {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return ""
}

func TestOutboxModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		inBubble(t, func() { modelOutbox(rt) })
	})
}

// inBubble runs a property in virtual time. What it panics with, which is how
// rapid fails and skips, is carried out of there.
func inBubble(t *testing.T, f func()) {
	t.Helper()
	var v any
	synctest.Test(t, func(*testing.T) {
		defer func() { v = recover() }()
		f()
	})
	if v != nil {
		panic(v)
	}
}

func modelOutbox(t *rapid.T) {
	w := &postWorld{t: t, limit: 1 << 30, large: map[origin]bool{}}
	w.post = kstage.NewPost(rapid.SampledFrom([]kstage.Oversize{kstage.OversizeBlock, kstage.OversizeReference}).Draw(t, "oversize"), w.produce)
	defer w.post.Stop()
	if rapid.Bool().Draw(t, "partitions are known") {
		w.post.Counted(dlqPartitions)
	}
	w.post.SetBatch(int32(rapid.SampledFrom([]int{1, 30_000, 1_000_000}).Draw(t, "flight")))
	for p := range int32(4) {
		w.assign(p, 0)
	}
	t.Repeat(map[string]func(*rapid.T){
		"bury":   w.bury,
		"answer": w.answer,
		"limit":  func(t *rapid.T) { w.limit = rapid.SampledFrom([]int{500, 1000, 1 << 30}).Draw(t, "limit") },
		"wait": func(t *rapid.T) {
			<-time.After(time.Duration(rapid.SampledFrom([]int{1, 300, 31_000, 61_000}).Draw(t, "ms")) * time.Millisecond)
		},
		"skip": w.skip,
		"kill": w.kill,
		"":     func(*rapid.T) { synctest.Wait(); w.check() },
	})
	w.heal()
}

func (w *postWorld) assign(partition int32, first int64) {
	a := &assigned{partition: partition, skipped: map[int64]bool{}, values: map[int64]int{}}
	a.Assignment, a.offsets = w.post.Assign(partition, first, 200)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.byBirth = append(w.byBirth, a)
}

func (w *postWorld) locked(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

func (w *postWorld) pick(t *rapid.T) *assigned {
	return w.byBirth[rapid.IntRange(0, len(w.byBirth)-1).Draw(t, "assignment")]
}

// produce is the client's.
func (w *postWorld) produce(r *kgo.Record, promise func(*kgo.Record, error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.post.Counted(dlqPartitions)
	r.Partition %= dlqPartitions
	var o origin
	for _, a := range w.byBirth { // the copy-id names partition and offset; of several assignments the last is meant
		for offset := range a.values {
			if headerOfCopy(r, "kstage-origin-partition") == fmt.Sprint(a.partition) && headerOfCopy(r, "kstage-origin-offset") == fmt.Sprint(offset) && !a.dead {
				o = origin{a, offset}
			}
		}
	}
	if o.a == nil {
		w.wrong = append(w.wrong, fmt.Sprintf("a copy for a dead assignment, or of nothing: %v", r))
	}
	if o.a != nil && o.a.skipped[o.offset] {
		w.wrong = append(w.wrong, fmt.Sprintf("sent again after it was skipped: %v", r))
	}
	for _, ps := range w.given {
		if slices.ContainsFunc(ps, func(p parcel) bool { return p.origin == o }) {
			w.wrong = append(w.wrong, fmt.Sprintf("on its way twice: %v", r))
		}
	}
	w.given[r.Partition] = append(w.given[r.Partition], parcel{o, r, promise})
}

// bury lets some records of a partition fail, in order.
func (w *postWorld) bury(t *rapid.T) {
	a := w.pick(t)
	for range min(rapid.IntRange(1, 8).Draw(t, "records"), len(a.offsets)) {
		offset := a.offsets[0]
		a.offsets = a.offsets[1:]
		n := rapid.SampledFrom([]int{0, 10, 10, 10, 450, 2000}).Draw(t, "bytes")
		if !a.dead {
			w.locked(func() { a.values[offset] = n })
		}
		require.Equal(w.t, !a.dead, a.Bury(offset, make([]byte, n), "text"))
	}
}

// answer answers all that a partition has: a first part is written, and the rest
// fails, as it must where one is too large.
func (w *postWorld) answer(t *rapid.T) {
	p := rapid.IntRange(0, dlqPartitions-1).Draw(t, "partition")
	w.answerWith(p, rapid.IntRange(0, len(w.given[p])).Draw(t, "written"),
		rapid.SampledFrom([]error{kerr.NotEnoughReplicas, kgo.ErrRecordTimeout, kgo.ErrMaxBuffered}).Draw(t, "error"))
}

func (w *postWorld) answerWith(partition, written int, err error) {
	var all []parcel
	w.locked(func() { all, w.given[partition] = w.given[partition], nil })
	if i := slices.IndexFunc(all, func(p parcel) bool { return p.size() > w.limit }); i >= 0 && i <= written {
		written, err = i, kerr.MessageTooLarge
		for _, p := range all[i:] {
			if len(all[i:]) == 1 {
				w.large[p.origin] = true
			}
		}
	}
	for i, p := range all {
		if i < written {
			w.written = append(w.written, parcel{p.origin, cloned(p.r), nil}) // the record is another's from its answer on
			p.promise(p.r, nil)
			continue
		}
		p.promise(p.r, err)
	}
}

func cloned(r *kgo.Record) *kgo.Record {
	c := *r
	c.Headers = slices.Clone(r.Headers)
	for i, h := range c.Headers {
		c.Headers[i].Value = slices.Clone(h.Value)
	}
	return &c
}

func (w *postWorld) skip(t *rapid.T) {
	a := w.pick(t)
	open := a.Open()
	if a.dead || len(open) == 0 {
		return
	}
	o := rapid.SampledFrom(open).Draw(t, "offset")
	if a.Skip(o) {
		w.locked(func() { a.skipped[o] = true })
	}
}

// kill takes a partition away and gives it back from the oldest unfinished record on.
func (w *postWorld) kill(t *rapid.T) {
	if rapid.IntRange(0, 3).Draw(t, "rarely") > 0 {
		return
	}
	a := w.pick(t)
	if a.dead {
		return
	}
	w.locked(func() { a.dead = true })
	a.Kill()
	w.assign(a.partition, a.offsets0())
}

// offsets0 is where the next assignment begins: offsets are not used twice, so
// that the test can tell copies apart.
func (a *assigned) offsets0() int64 {
	if len(a.offsets) > 0 {
		return a.offsets[len(a.offsets)-1] + 1
	}
	return 1000 + int64(len(a.values))
}

// check is what holds at all times.
func (w *postWorld) check() {
	asked, flying := 0, 0
	for _, b := range w.post.Boxes() {
		require.False(w.t, b.Resting && b.Asked > 0, "a flight during a back-off")
		if b.Resting {
			require.Zero(w.t, b.Flying, "a drain waits for a back-off")
		}
		require.False(w.t, !b.Resting && b.Asked == 0 && b.Waiting > 0, "nothing is on its way, and nothing waits for time: %+v", b)
		require.Positive(w.t, b.Asked+b.Waiting+b.Refused, "an empty outbox is kept")
		asked += b.Asked
		flying += b.Flying
	}
	given := 0
	for _, ps := range w.given {
		given += len(ps)
	}
	require.Equal(w.t, given, asked)
	total := 0
	for _, a := range w.byBirth {
		if !a.dead {
			total += a.Flying()
		}
		require.GreaterOrEqual(w.t, a.Flying(), 0)
	}
	require.LessOrEqual(w.t, total, flying)
	require.Empty(w.t, w.wrong)
	w.checkWritten()
}

// checkWritten: in order, each once but for what was skipped, and nothing smaller
// than it had to be.
func (w *postWorld) checkWritten() {
	last := map[*assigned]int64{}
	seen := map[origin]bool{}
	for _, p := range w.written {
		require.False(w.t, seen[p.origin], "written twice")
		seen[p.origin] = true
		if !w.large[p.origin] {
			require.Len(w.t, p.r.Value, p.a.values[p.offset])
			require.Equal(w.t, "text", headerOfCopy(p.r, "kstage-error"))
			require.GreaterOrEqual(w.t, p.offset, last[p.a], "overtaken")
			last[p.a] = p.offset
		}
	}
}

// heal makes all well: what is left arrives, and nothing remains.
func (w *postWorld) heal() {
	w.limit = 1 << 30
	for range 1000 {
		<-time.After(61 * time.Second)
		synctest.Wait()
		if w.given[0] == nil && w.given[1] == nil {
			break
		}
		for p := range w.given {
			w.answerWith(p, len(w.given[p]), nil)
		}
	}
	synctest.Wait()
	w.checkWritten()
	require.Empty(w.t, w.post.Boxes())
	require.Empty(w.t, w.post.Health().Reasons)
	written := map[origin]bool{}
	for _, p := range w.written {
		written[p.origin] = true
	}
	for _, a := range w.byBirth {
		require.Zero(w.t, a.Flying())
		if a.dead {
			continue
		}
		require.Empty(w.t, a.Open())
		require.Zero(w.t, a.Held())
		for o := range a.values {
			require.True(w.t, written[origin{a, o}] || a.skipped[o], "%d/%d is lost", a.partition, o)
		}
	}
}
