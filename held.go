package kstage

import (
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
)

// held is a record that is open: parked, running again, or leaving. Its copy
// keeps nothing of the fetched batch alive. Fields are guarded by window.mu,
// but record and facts, which are immutable while state says running or leaving.
type held struct {
	place
	record  kgo.Record
	size    int64
	kept    bool // it is, or was, in the window's set
	ended   bool // finished, by whoever was first
	state   heldState
	facts   facts
	retries int     // immediate retries so far
	blocks  int     // times it was blocked
	spent   bool    // the last call cost an attempt
	message Message // of the running attempt
	leaving copying // of a leaving record; its outbox's
}

type heldState int

const (
	heldParked     heldState = iota + 1 // its key waits in lanes
	heldRunning                         // its handler runs again
	heldLeaving                         // its copy is in the hand-off's hands
	heldConfirming                      // it was handled, and the dedupe store does not answer
)

// newHeld copies record i of b with all its bytes: what is kept keeps nothing of the
// fetched batch alive.
func newHeld(b *batch, i int, r *kgo.Record, f *facts) *held {
	h := &held{place: place{b, i}, size: recordSize(r), facts: *f}
	copyRecord(&h.record, r)
	if f.retry != nil {
		h.facts.retry = new(*f.retry)
	}
	return h
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
	h.state, h.message = state, Message{}
	if !h.kept {
		h.kept = true
		w.held.add(h)
		w.tracker.Hold(h.b.done, h.i)
		w.bytes.Add(h.size)
		w.count.Add(1)
	}
	return true
}

// rerun returns the held copy of a record whose handler is called again; nil for
// a first call. False: the window was forgotten, which has told of the record as
// one that waits; it must not run, or it is told of twice.
func (w *window) rerun(b *batch, i int) (*held, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.tracker.Open(b.done, i) { // nearly all: to look into held is dear where much is held
		return nil, true
	}
	h := w.held.at(place{b, i})
	if w.dead {
		return nil, false
	}
	h.state = heldRunning
	if h.spent {
		h.facts.attempt++
	}
	f := h.facts
	h.message = Message{Record: &h.record, facts: &f}
	return h, true
}

// heldCopy returns the held copy of a record whose handler runs again; nil when it
// runs for the first time.
func (w *window) heldCopy(b *batch, i int) *held {
	if b.holding.Load() == 0 {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.held.at(place{b, i})
}

// resolve finishes a held record. False: the window is dead, or it was finished
// before, by Skip: which makes it stale.
func (w *window) resolve(h *held) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead {
		if h.state == heldRunning {
			w.givenUp = append(w.givenUp, h.place)
		}
		return false
	}
	if h.ended {
		return false
	}
	h.ended = true
	w.tracker.Resolve(h.b.done, h.i)
	w.held.remove(h)
	w.giveClaimBack(h.record.Offset)
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

// copyRecord copies r with all its bytes to c. Key and values are in one piece. Nil
// stays nil, empty stays empty.
func copyRecord(c, r *kgo.Record) {
	n := len(r.Key) + len(r.Value)
	for i := range r.Headers {
		n += len(r.Headers[i].Value)
	}
	buf := make([]byte, 0, n)
	dup := func(b []byte) []byte {
		if b == nil {
			return nil
		}
		from := len(buf)
		buf = append(buf, b...)
		return buf[from:len(buf):len(buf)]
	}
	*c = kgo.Record{
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
}
