package lanes

import "time"

// tick is how often walks are looked at: one that starts fewer than tick/slow
// records in a tick, with more waiting, goes on by key.
const tick = time.Millisecond

// walk runs queued records in order until none is left or the walk is cut. It
// starts only when nothing of the partition is started and unfinished, and no
// other worker is inside: order then needs no key. pool.mu is held, but not over Run.
func (q *Partition[B]) walk() {
	if q.queue.len() == 0 {
		return
	}
	q.walker, q.looked = true, false
	q.watch()
	q.walkOn(q.claimFront(), 0, false)
}

// claimFront opens the queue's front to the walk. pool.mu is held.
func (q *Partition[B]) claimFront() span[B] {
	s := *q.queue.front()
	q.first = s.next
	q.claim.reset(s.next, s.end)
	return s
}

// walkOn sweeps what is claimed, then span after span. With over, the first
// sweep is done, and its last record has to wait. pool.mu is held, but not over Run.
func (q *Partition[B]) walkOn(s span[B], wait time.Duration, over bool) {
	p := q.pool
	for again := true; again; {
		for !over {
			p.enter()
			wait, over = q.sweep(s)
			p.exit()
		}
		if again = q.swept(s, wait); again {
			s, wait, over = q.claimFront(), 0, false
		}
	}
	q.walker = false
	q.unwatch()
	if q.startable() {
		p.push(q)
	}
}

// sweep runs what the claim gives, without a lock. It is over when nothing is
// left, or with a record that has to wait. A panic ends it before that: one
// deferred call a sweep, since one a record would cost more than the rest.
func (q *Partition[B]) sweep(s span[B]) (wait time.Duration, over bool) {
	back := false
	defer func() {
		if !back { // Goexit: this goroutine is lost
			go q.walkAfterExit(s, wait, over)
		}
	}()
	q.run(s, &wait, &over)
	back = true
	return wait, over
}

// run is sweep but for what a Goexit needs: answers that are left where they are
// found. recover cannot tell that there is one: it may return a panic on its way.
func (q *Partition[B]) run(s span[B], wait *time.Duration, over *bool) {
	run, i, returned := q.pool.work.Run, int32(0), false
	defer func() {
		if !returned {
			*wait, *over = Never, true // should Unwound not return
			*wait = q.pool.work.Unwound(s.b, int(i), recover())
			*over = *wait != 0
		}
	}()
	for {
		var ok bool
		if i, ok = q.claim.take(); !ok {
			break
		}
		if w := run(s.b, int(i)); w != 0 {
			*wait = w
			break
		}
	}
	*over, returned = true, true
}

// walkAfterExit is the rest of a worker whose goroutine was ended in a sweep.
func (q *Partition[B]) walkAfterExit(s span[B], wait time.Duration, over bool) {
	p := q.pool
	p.exit()
	q.walkOn(s, wait, over)
	p.endTurn(q)
	p.loop()
}

// swept takes stock after a span; false ends the walk. pool.mu is held.
func (q *Partition[B]) swept(s span[B], wait time.Duration) (again bool) {
	if wait != 0 && !q.byKey {
		q.cut() // the record in progress has to wait: this gives it its lane
	}
	if q.byKey { // cut by us or by somebody else
		if l := q.held; l != nil {
			q.held = nil
			q.end(l, wait)
		}
		return false
	}
	q.tell(s.end)
	q.queue.pop()
	return !q.pool.others(q.intake) && q.queue.len() > 0
}

// tell reports that the walk of the queue's front is done with all records
// before end. pool.mu is held.
func (q *Partition[B]) tell(end int32) {
	if q.first < end {
		q.pool.work.Ended(q.queue.front().b, int(q.first), int(end))
		q.count += int(end - q.first)
		q.first = end
	}
}

// cut ends the walk, in no time: what it has not started goes on by key, and the
// record in progress holds its key. pool.mu is held.
func (q *Partition[B]) cut() {
	next, end := q.claim.stop()
	s := q.queue.front()
	if q.first < next && next <= end {
		q.held = q.open(item[B]{s.b, next - 1})
	}
	q.tell(next - 1)
	if s.next = next; next >= s.end {
		q.queue.pop()
	}
	q.byKey, q.since, q.keyed = true, time.Now(), 0
	if q.idle == nil && q.startable() {
		q.pool.push(q)
	}
}

func (q *Partition[B]) watch() {
	p := q.pool
	q.walkAt, q.count, q.seen = len(p.walks), 0, 0
	p.walks = append(p.walks, q)
	if p.ticking {
		return
	}
	p.ticking = true
	if p.timer == nil {
		p.timer = time.AfterFunc(tick, p.look)
	} else {
		p.timer.Reset(tick)
	}
}

func (q *Partition[B]) unwatch() {
	p := q.pool
	last := p.walks[len(p.walks)-1]
	p.walks[q.walkAt], last.walkAt = last, q.walkAt
	p.walks[len(p.walks)-1] = nil
	p.walks = p.walks[:len(p.walks)-1]
}

// look cuts the walks that are slow. The timer calls it each tick, while anything walks.
func (p *Pool[B]) look() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, q := range p.walks {
		q.look()
	}
	if p.ticking = len(p.walks) > 0; p.ticking {
		p.timer.Reset(tick)
	}
}

func (q *Partition[B]) look() {
	if q.byKey {
		return
	}
	next := q.claim.next()
	started := q.count + int(next-q.first)
	waiting := q.queue.len() > 1 || next < q.queue.front().end
	if q.looked && waiting && started-q.seen < int(tick/slow) {
		q.cut()
		return
	}
	q.seen, q.looked = started, true
	q.tell(next - 1)
}
