package sim

import (
	"time"

	"github.com/kstage/kstage"
)

// line is what must be handled one after the other.
type line struct {
	member  string
	session int
	spot    spot
	key     string
}

// lineOf is a call's; false: it has no order.
func lineOf(r *Run, e *Event) (line, bool) {
	l := line{e.Member, e.Session, e.Place.spot(), ""}
	switch r.Plan.groupOf(e.Group).Ordering {
	case kstage.ByKey:
		l.key = e.Key
		return l, e.Key != ""
	case kstage.ByPartition:
		return l, true
	case kstage.Unordered:
	}
	return l, false
}

// keyOrder: within one assignment of a partition, records of a key are handled one at
// a time, and in the order of their offsets.
func keyOrder(r *Run, f *findings) {
	running := map[line]Place{}
	last := map[line]Place{}
	for _, e := range r.History.Events() {
		if e.Kind != Started && e.Kind != Ended {
			continue
		}
		l, ordered := lineOf(r, &e)
		if !ordered {
			continue
		}
		if e.Kind == Ended {
			delete(running, l)
			continue
		}
		if p, ok := running[l]; ok {
			f.add(e.At, "%s starts %v while %v runs (key %q)", e.Member, e.Place, p, l.key)
		}
		if p, ok := last[l]; ok && e.Place.Offset < p.Offset {
			f.add(e.At, "%s starts %v after %v (key %q)", e.Member, e.Place, p, l.key)
		}
		running[l], last[l] = e.Place, e.Place
	}
}

type memberPlace struct {
	member string
	place  Place
}

// fenced: of a partition that was given up no handler is called, and no copy sent but
// what was about to be.
func fenced(r *Run, f *findings) {
	type session struct {
		o ownership
		n int
	}
	given := map[ownership]time.Duration{} // when
	ended := map[session]time.Duration{}
	seen := map[ownership][]int{}
	returned := map[string]time.Duration{}
	calls := map[memberPlace]time.Duration{} // when the last of each record has ended
	for _, e := range r.History.Events() {
		o := e.ownership()
		switch e.Kind {
		case Assigned:
			delete(given, o)
		case Given:
			given[o] = e.At
			for _, n := range seen[o] {
				ended[session{o, n}] = e.At
			}
			seen[o] = nil
		case Returned:
			returned[e.Member] = e.At
		case Started:
			if at, ok := ended[session{o, e.Session}]; ok && e.At > at {
				f.add(e.At, "%s handles %v (%s) of an assignment that has ended at %v", e.Member, e.Place, e.Record, at)
			}
			if at, ok := returned[e.Member]; ok && e.At > at {
				f.add(e.At, "%s handles %v after Run has returned", e.Member, e.Place)
			}
			if n := seen[o]; len(n) == 0 || n[len(n)-1] != e.Session {
				seen[o] = append(n, e.Session)
			}
		case Ended:
			calls[memberPlace{e.Member, e.Place}] = e.At
		case CopySent:
			if at, ok := given[o]; ok && (e.At > at+2*maxStretch || calls[memberPlace{e.Member, e.Place}] > at) {
				f.add(e.At, "%s sends a copy of %v, and gave the partition up at %v", e.Member, e.Place, at)
			}
		}
	}
}
