package kstage

import "time"

const (
	// lookAhead is how far ahead of being due a retry partition's records are fetched:
	// one that is fetched again may be silent for the broker's wait first.
	lookAhead = 4 * retryMaxWait
	// longestSleep bounds a line's timer: clocks are set, and machines sleep.
	longestSleep = 10 * time.Second
)

// dueLine is the records of a retry partition that wait to be due, in offset order: a
// stage's delay is constant, so nearly always the order of being due, too. One that
// is due waits for those before it. Guarded by window.mu.
type dueLine struct {
	batches []*batch
	next    int         // first waiting record of the first batch
	timer   *time.Timer // of what comes next; nil until the first
	closed  bool
}

// advance gives what is due by now to start, batch by batch.
func (l *dueLine) advance(now time.Time, start func(b *batch, from, end int)) {
	for len(l.batches) > 0 {
		b, from := l.batches[0], l.next
		for l.next < len(b.facts) && !now.Before(b.due(l.next)) {
			l.next++
		}
		if from < l.next {
			start(b, from, l.next)
		}
		if l.next < len(b.facts) {
			return
		}
		l.batches[0] = nil
		l.batches, l.next = l.batches[1:], 0
	}
}

// len counts the waiting records.
func (l *dueLine) len() (n int) {
	for _, b := range l.batches {
		n += len(b.facts)
	}
	return n - l.next
}

// head is the first waiting record's due time and offset; false where none waits.
func (l *dueLine) head() (due time.Time, offset int64, ok bool) {
	if len(l.batches) == 0 {
		return time.Time{}, 0, false
	}
	b := l.batches[0]
	return b.due(l.next), b.done.Offset(l.next), true
}

// far says that even the last waiting record is not due for so long that more need
// not be fetched, and when that changes.
func (l *dueLine) far(now time.Time) (until time.Time, far bool) {
	if len(l.batches) == 0 {
		return time.Time{}, false
	}
	b := l.batches[len(l.batches)-1]
	until = b.due(len(b.facts) - 1).Add(-lookAhead)
	return until, now.Before(until)
}

// watch sets the timer for what comes next: a record that is due, or the time to
// fetch more. wake is called by it.
func (l *dueLine) watch(now time.Time, wake func()) {
	due, _, waiting := l.head()
	if !waiting || l.closed {
		return
	}
	if until, far := l.far(now); far {
		due = earlier(due, until)
	}
	sleep := min(max(due.Sub(now), 0), longestSleep)
	if l.timer == nil {
		l.timer = time.AfterFunc(sleep, wake)
	} else {
		l.timer.Reset(sleep)
	}
}

// close ends the timer for good.
func (l *dueLine) close() {
	l.closed = true
	if l.timer != nil {
		l.timer.Stop()
	}
}

// due is when record i of a retry partition's batch may be handled.
func (b *batch) due(i int) time.Time { return b.facts[i].retry.due }
