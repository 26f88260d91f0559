package kstage

// place is where a record stands in its batch.
type place struct {
	b *batch
	i int
}

func (p place) offset() int64 { return p.b.done.Offset(p.i) }

// heldSet is the open records of a window. It finds them by their place: pages of
// pointers, which a batch has as long as records of it are held. (A map by offset took
// an eighth of a hand-off's time.) Guarded by window.mu.
type heldSet struct {
	batches map[*batch]struct{} // that have pages
}

// heldPage is the held records of a row of places; nil: not held.
type heldPage [64]*held

// at returns the record at a place; nil where it is not held.
func (s *heldSet) at(p place) *held {
	n := len(heldPage{})
	if p.b.pages == nil || p.b.pages[p.i/n] == nil {
		return nil
	}
	return p.b.pages[p.i/n][p.i%n]
}

// byOffset looks at all of them.
func (s *heldSet) byOffset(offset int64) *held {
	for h := range s.all {
		if h.record.Offset == offset {
			return h
		}
	}
	return nil
}

// all yields the held records in no order.
func (s *heldSet) all(yield func(*held) bool) {
	for b := range s.batches {
		for _, page := range b.pages {
			if page != nil && !page.all(yield) {
				return
			}
		}
	}
}

func (p *heldPage) all(yield func(*held) bool) bool {
	for _, h := range p {
		if h != nil && !yield(h) {
			return false
		}
	}
	return true
}

// add takes in a record that is not held.
func (s *heldSet) add(h *held) {
	b, n := h.b, len(heldPage{})
	if b.pages == nil {
		b.pages = make([]*heldPage, (b.done.Len()+n-1)/n)
		if s.batches == nil {
			s.batches = map[*batch]struct{}{}
		}
		s.batches[b] = struct{}{}
	}
	if b.pages[h.i/n] == nil {
		b.pages[h.i/n] = new(heldPage)
	}
	b.pages[h.i/n][h.i%n] = h
	b.holding.Add(1)
}

// remove lets go of a record that is held.
func (s *heldSet) remove(h *held) {
	b, n := h.b, len(heldPage{})
	b.pages[h.i/n][h.i%n] = nil
	if b.holding.Add(-1) == 0 {
		b.pages = nil
		delete(s.batches, b)
	}
}
