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

const heldPageSize = 64

// heldPage is the held records of a row of places; nil: not held.
type heldPage [heldPageSize]*held

// at returns the record at a place; nil where it is not held.
func (s *heldSet) at(p place) *held {
	if p.b.pages == nil {
		return nil
	}
	page := p.b.pages[p.i/heldPageSize]
	if page == nil {
		return nil
	}
	return page[p.i%heldPageSize]
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
	b := h.b
	if b.pages == nil {
		b.pages = make([]*heldPage, (b.done.Len()+heldPageSize-1)/heldPageSize)
		if s.batches == nil {
			s.batches = map[*batch]struct{}{}
		}
		s.batches[b] = struct{}{}
	}
	page := &b.pages[h.i/heldPageSize]
	if *page == nil {
		*page = new(heldPage)
	}
	(*page)[h.i%heldPageSize] = h
	b.holding.Add(1)
}

// remove lets go of a record that is held.
func (s *heldSet) remove(h *held) {
	b := h.b
	b.pages[h.i/heldPageSize][h.i%heldPageSize] = nil
	if b.holding.Add(-1) == 0 {
		b.pages = nil
		delete(s.batches, b)
	}
}
