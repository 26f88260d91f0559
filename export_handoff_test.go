package kstage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/kstage/kstage/internal/offsets"
)

// Post is a hand-off without a client: what it would give to one goes to a function.
type Post struct {
	o    *handOff
	held map[*window][]*held
}

// NewPost makes one.
func NewPost(oversize Oversize, produce func(*kgo.Record, func(*kgo.Record, error))) *Post {
	o := &handOff{
		dlq: "dlq", oversize: oversize, log: &recordLog{log: zap.NewNop()}, metrics: NopMetrics{},
		board: newHealthBoard(func(StateEvent) {}), random: jitter,
		batchSize: map[string]int32{}, outboxes: map[topicPartition]*outbox{}, counts: map[string]int32{},
	}
	o.sheets.answered = o.answered
	o.produce = func(_ context.Context, r *kgo.Record, promise func(*kgo.Record, error)) { produce(r, promise) }
	return &Post{o: o, held: map[*window][]*held{}}
}

// Counted tells how many partitions the target has.
func (p *Post) Counted(n int) { p.o.counted("dlq", n) }

// SetBatch bounds a flight.
func (p *Post) SetBatch(bytes int32) { p.o.batchSize["dlq"] = bytes }

// Assignment is a window of a Post.
type Assignment struct {
	p *Post
	w *window
}

// Assign makes one of n records that come.
func (p *Post) Assign(partition int32, first int64, n int) (*Assignment, []int64) {
	w := &window{topicPartition: topicPartition{"orders", partition}, intake: &intake{}}
	b := &batch{w: w, done: offsets.NewDense(first, n, 0)}
	w.tracker.Add(b.done)
	os := make([]int64, n)
	for i := range os {
		os[i] = first + int64(i)
		r := kgo.Record{Topic: w.topic, Partition: partition, Offset: os[i], Key: fmt.Append(nil, os[i])}
		p.held[w] = append(p.held[w], &held{place: place{b, i}, record: r})
	}
	return &Assignment{p, w}, os
}

func (a *Assignment) find(offset int64) *held {
	hs := a.p.held[a.w]
	return hs[offset-hs[0].record.Offset]
}

// Bury hands a record off; false where the assignment is dead.
func (a *Assignment) Bury(offset int64, value []byte, text string) bool {
	h := a.find(offset)
	h.record.Value, h.size = value, int64(len(value))
	if !a.w.hold(h, heldLeaving) {
		return false
	}
	a.p.o.start(h, departure{topic: "dlq", reason: ReasonPermanent}, errors.New(text))
	return true
}

// Skip is what Consumer.Skip does.
func (a *Assignment) Skip(offset int64) bool {
	h := a.find(offset)
	if !a.p.o.skip(h) || !a.w.resolve(h) {
		return false
	}
	a.p.o.board.clearRecord(HealthOversize, h.coordinates())
	return true
}

// Kill makes the assignment dead, as an intake does.
func (a *Assignment) Kill() {
	a.w.mu.Lock()
	a.w.dead = true
	a.w.gone.Store(true)
	a.w.mu.Unlock()
	a.p.o.forget(a.w.topicPartition)
	a.p.o.board.clearPartition(a.w.topic, a.w.partition, HealthOversize)
}

// Flying is what a drain of the assignment waits for.
func (a *Assignment) Flying() int {
	a.w.mu.Lock()
	defer a.w.mu.Unlock()
	return a.w.flying
}

// Held is what the assignment counts of records that are not finished.
func (a *Assignment) Held() int64 { return a.w.count.Load() + a.w.bytes.Load() }

// Open lists the offsets that are not finished.
func (a *Assignment) Open() (os []int64) {
	a.w.mu.Lock()
	defer a.w.mu.Unlock()
	for h := range a.w.held.all {
		os = append(os, h.record.Offset)
	}
	slices.Sort(os)
	return os
}

// Box is the state of one outbox.
type Box struct {
	Partition                       int32
	Waiting, Asked, Refused, Flying int
	Resting                         bool
}

// Boxes lists the outboxes.
func (p *Post) Boxes() (bs []Box) {
	p.o.mu.Lock()
	defer p.o.mu.Unlock()
	for to, b := range p.o.outboxes {
		flying := 0
		for _, c := range slices.Concat(b.waiting, b.back, b.flight, b.refused) {
			if c.flying {
				flying++
			}
		}
		// a copy that was taken back is in its flight, too, until that has landed
		for _, c := range b.back {
			if c.flying {
				flying--
			}
		}
		bs = append(bs, Box{to.partition, len(b.waiting), b.asked, len(b.refused), flying, b.resting()})
	}
	slices.SortFunc(bs, func(x, y Box) int { return cmp.Compare(x.Partition, y.Partition) })
	return bs
}

// Health is what the hand-off says of itself.
func (p *Post) Health() Health { return p.o.board.health(true) }

// Stop ends the timers.
func (p *Post) Stop() {
	p.o.mu.Lock()
	defer p.o.mu.Unlock()
	p.o.closed = true
	for _, b := range p.o.outboxes {
		b.stop()
	}
}
