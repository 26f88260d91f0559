package kstage

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// CopyRecord is what a record that waits is kept as.
func CopyRecord(r *kgo.Record) *kgo.Record {
	var c kgo.Record
	copyRecord(&c, r)
	return &c
}

// RecordSize is what a record counts.
var RecordSize = recordSize

// Load is what one window holds.
type Load struct {
	Topic     string
	Partition int32
	Records   int64
	Bytes     int64
	Span      int
	Paused    bool // in the client
}

// Loads tells what each window holds, in any order.
func (c *Consumer) Loads() (ls []Load) {
	in := c.main
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, w := range in.all() {
		ls = append(ls, Load{w.topic, w.partition, w.count.Load(), w.bytes.Load(), w.span(), w.paused})
	}
	return ls
}

// Pressed counts the windows that wait to be resumed by the pauser, and is -1
// where the intake's own count disagrees.
func (c *Consumer) Pressed() int {
	in := c.main
	in.mu.Lock()
	defer in.mu.Unlock()
	n := 0
	for _, w := range in.windows {
		n += int(w.reasons.pressed())
	}
	if n != int(in.full.Load()) {
		return -1
	}
	return n
}

// pausing is an intake of some windows whose batches a test admits and drains by itself.
func pausing(c *Consumer, cl *kgo.Client, partitions int32) (in *intake, ws []*window) {
	in = c.main
	in.client, in.base = cl, context.Background() //nolint:forbidigo // it ends with the test's process
	for p := range partitions {
		w := newWindow(in, topicPartition{"orders", p})
		in.windows[w.topicPartition] = w
		ws = append(ws, w)
	}
	return in, ws
}

// take admits one record to w and starts nothing.
func (w *window) take(offset int64) *batch {
	b := w.newBatch(&facts{attempt: 1}, []*kgo.Record{{Offset: offset, Value: []byte("v")}}, false)
	w.register([]*batch{b}, offset+1)
	return b
}

// resumeIfNudged is what the pauser does.
func (in *intake) resumeIfNudged() {
	select {
	case <-in.nudged:
		in.resumeRoomy()
	default:
	}
}

// LostResumes drains a window just when it is found full, many times, and counts
// how often it stays paused for good.
func LostResumes(c *Consumer, cl *kgo.Client, rounds int) (lost int) {
	in, ws := pausing(c, cl, 1)
	for i := range rounds {
		b := ws[0].take(int64(i))
		var start atomic.Bool
		var done sync.WaitGroup
		done.Go(func() {
			for !start.Load() {
				runtime.Gosched()
			}
			for range i % 256 { // not always at the same moment
				_ = ws[0].gone.Load()
			}
			b.ended(0, 1)
		})
		runtime.Gosched()
		start.Store(true)
		in.pauseFull()
		done.Wait()
		in.resumeIfNudged()
		if ws[0].paused {
			lost++
			in.resumeRoomy()
		}
	}
	return lost
}

// DrainWhilePausing frees the budget, of 4 bytes, while pauseFull is on its way
// with the knowledge that it is spent, and tells whether both partitions go on.
func DrainWhilePausing(c *Consumer, cl *kgo.Client) bool {
	in, ws := pausing(c, cl, 2)
	var drain []*batch
	for i := range int64(3) {
		drain = append(drain, ws[0].take(i), ws[1].take(i))
	}
	for _, w := range ws {
		w.mu.Lock() // pauseFull wants the span
	}
	var done sync.WaitGroup
	var over atomic.Bool
	done.Go(func() { in.pauseFull(); over.Store(true) })
	for !over.Load() && in.mu.TryLock() { // until it has the lock
		in.mu.Unlock()
		runtime.Gosched()
	}
	<-time.After(10 * time.Millisecond) // it has summed up the bytes by now
	for _, b := range drain[:4] {
		b.ended(0, 1)
	}
	for _, w := range ws {
		w.mu.Unlock()
	}
	done.Wait()
	in.resumeIfNudged()
	return !ws[0].paused && !ws[1].paused
}
