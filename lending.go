package kstage

// The claims of a window's records, as the dedupe store has lent them: of those whose
// handler runs, will run again, or whose copy leaves.

// claim is what the dedupe store has lent for a record; nil: nothing.
func (w *window) claim(offset int64) *lent {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.claims[offset]
}

// lend notes a claim. False: nothing may start any more.
func (w *window) lend(offset int64, l *lent) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead || w.fenced.Load() {
		return false
	}
	if w.claims == nil {
		w.claims = map[int64]*lent{}
	}
	w.claims[offset] = l
	return true
}

// takeClaim hands a record's claim over to who confirms it; nil: there is none.
func (w *window) takeClaim(offset int64) *lent {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.claims[offset]
	delete(w.claims, offset)
	return l
}

// endClaim gives a record's claim back, where it has one.
func (w *window) endClaim(offset int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.giveClaimBack(offset)
}

// giveClaimBack is endClaim under w.mu.
func (w *window) giveClaimBack(offset int64) {
	if l := w.claims[offset]; l != nil {
		delete(w.claims, offset)
		w.intake.claims.giveBack(l)
	}
}

// giveClaimsBack gives back those of all records but the ones whose handler's return
// decides. w.mu is held.
func (w *window) giveClaimsBack(running []place) {
	if len(w.claims) == 0 {
		return
	}
	runs := map[int64]bool{}
	for _, at := range running {
		runs[at.offset()] = true
	}
	for offset := range w.claims {
		if !runs[offset] {
			w.giveClaimBack(offset)
		}
	}
}
