package lanes

import "time"

type item[B comparable] struct {
	b B
	i int32
}

// lane is a key in use: its head is in progress, parked or ready, the others
// wait behind it. A record without a key is a lane of its own.
type lane[B comparable] struct {
	hash     uint64
	keyed    bool
	head     item[B]
	waiting  fifo[item[B]]
	stepAt   int         // index in steps, while in progress
	timer    *time.Timer // of the parked head
	parkings int         // tells a late timer that its wait is not the present one
	nextFree *lane[B]
}

// step runs one record. pool.mu is held, but not over Run.
func (q *Partition[B]) step() {
	p := q.pool
	l := q.pick()
	if q.startable() {
		p.push(q)
	}
	if l == nil {
		return
	}
	q.keyed++
	l.stepAt = len(q.steps)
	q.steps = append(q.steps, l)
	p.enter()
	wait := q.call(l)
	p.exit()
	q.endStep(l, wait)
}

// call runs the lane's head, without a lock.
func (q *Partition[B]) call(l *lane[B]) (wait time.Duration) {
	back := false
	defer func() {
		if !back { // Goexit: this goroutine is lost
			go q.stepAfterExit(l, wait)
		}
	}()
	q.pool.work.call(l.head, &wait)
	back = true
	return wait
}

// call runs one record. The answer is found in wait after a Goexit, too.
func (w *Work[B]) call(it item[B], wait *time.Duration) {
	returned := false
	defer func() {
		if !returned {
			*wait = Never // should Unwound not return
			*wait = w.Unwound(it.b, int(it.i), recover())
		}
	}()
	*wait = w.Run(it.b, int(it.i))
	returned = true
}

// stepAfterExit is the rest of a worker whose goroutine was ended in a step.
func (q *Partition[B]) stepAfterExit(l *lane[B], wait time.Duration) {
	p := q.pool
	p.exit()
	q.endStep(l, wait)
	p.endTurn(q)
	p.loop()
}

func (q *Partition[B]) endStep(l *lane[B], wait time.Duration) {
	last := q.steps[len(q.steps)-1]
	q.steps[l.stepAt], last.stepAt = last, l.stepAt
	q.steps[len(q.steps)-1] = nil
	q.steps = q.steps[:len(q.steps)-1]
	q.end(l, wait)
}

// pick returns a lane whose head may start now: one that is ready, else that of
// the next record whose key is free. Records of busy keys go behind them. pool.mu is held.
func (q *Partition[B]) pick() *lane[B] {
	if q.ready.len() > 0 {
		return q.ready.pop()
	}
	for q.queue.len() > 0 {
		s := q.queue.front()
		it := item[B]{s.b, s.next}
		if s.next++; s.next == s.end {
			q.queue.pop()
		}
		if l := q.open(it); l != nil {
			return l
		}
	}
	return nil
}

// open makes the lane of a record, or puts the record behind its key and returns
// nil. pool.mu is held.
func (q *Partition[B]) open(it item[B]) *lane[B] {
	hash, keyed := q.pool.work.Key(it.b, int(it.i))
	if keyed {
		if l := q.lanes[hash]; l != nil {
			l.waiting.push(it)
			return nil
		}
	}
	l := q.free
	if l == nil {
		l = &lane[B]{}
	} else {
		q.free = l.nextFree
	}
	l.hash, l.keyed, l.head = hash, keyed, it
	if keyed {
		q.lanes[hash] = l
	}
	q.live++
	return l
}

// end lets the lane go on after its head was run. pool.mu is held.
func (q *Partition[B]) end(l *lane[B], wait time.Duration) {
	if wait == 0 || wait > 0 && q.idle == nil {
		q.pool.work.Ended(l.head.b, int(l.head.i), int(l.head.i)+1)
	}
	switch {
	case q.idle != nil || wait < 0: // fenced, or about to be
	case wait > 0:
		q.park(l, wait)
	case l.waiting.len() > 0:
		l.head = l.waiting.pop()
		q.ready.push(l)
		q.pool.push(q)
	default:
		q.close(l)
	}
}

// close ends a lane that nothing waits in. pool.mu is held.
func (q *Partition[B]) close(l *lane[B]) {
	if l.keyed {
		delete(q.lanes, l.hash)
	}
	l.head, l.timer = item[B]{}, nil
	l.waiting.shrink()
	l.nextFree, q.free = q.free, l
	if q.live--; q.live == 0 && q.queue.len() == 0 {
		q.free = nil // a burst of keys leaves nothing behind
	}
}

// park lets the lane's head wait without a worker. pool.mu is held.
func (q *Partition[B]) park(l *lane[B], wait time.Duration) {
	q.parked[l] = struct{}{}
	l.parkings++
	n := l.parkings
	l.timer = time.AfterFunc(wait, func() { q.unpark(l, n) })
}

// unpark is the end of a lane's n-th wait, unless it was fenced or dropped.
func (q *Partition[B]) unpark(l *lane[B], n int) {
	q.pool.mu.Lock()
	defer q.pool.mu.Unlock()
	if _, ok := q.parked[l]; !ok || l.parkings != n {
		return
	}
	delete(q.parked, l)
	q.ready.push(l)
	q.pool.push(q)
}
