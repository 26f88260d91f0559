package lanes

// Look is a tick.
func (p *Pool[B]) Look() { p.look() }

// ByKey says whether q goes by key.
func (q *Partition[B]) ByKey() bool {
	q.pool.mu.Lock()
	defer q.pool.mu.Unlock()
	return q.byKey
}

// Linger is a worker that is inside q, between its record's end and its turn's,
// until leave.
func (q *Partition[B]) Linger() (leave func()) {
	q.pool.mu.Lock()
	defer q.pool.mu.Unlock()
	q.active++
	return func() {
		q.pool.mu.Lock()
		defer q.pool.mu.Unlock()
		q.active--
		q.rest()
	}
}

// Timer returns what the timer of the only parked record calls.
func (q *Partition[B]) Timer() func() {
	q.pool.mu.Lock()
	defer q.pool.mu.Unlock()
	for l := range q.parked {
		n := l.parkings
		return func() { q.unpark(l, n) }
	}
	return nil
}
