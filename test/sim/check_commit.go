package sim

import (
	"slices"
	"strings"

	"github.com/kstage/kstage"
)

// ledger is which records of which group are finished, while a history is read.
type ledger struct {
	r        *Run
	finished map[groupPlace]bool
	offsets  map[spot][]int64 // that hold a record, sorted
	next     map[groupSpot]int
	ids      map[[2]string]bool // message ids that are done, by group
	stood    map[Place]string   // which record stood where: it may have been deleted since
}

type groupPlace struct {
	group string
	place Place
}

type groupSpot struct {
	group string
	spot  spot
}

func newLedger(r *Run) *ledger {
	l := &ledger{r: r, finished: map[groupPlace]bool{}, offsets: map[spot][]int64{}, next: map[groupSpot]int{}, ids: map[[2]string]bool{}, stood: map[Place]string{}}
	for topic, ps := range r.Logs {
		for p, records := range ps {
			var os []int64
			for o := range records {
				os = append(os, o)
			}
			slices.Sort(os)
			l.offsets[spot{topic, p}] = os
		}
	}
	return l
}

// see takes an event that may finish a record.
func (l *ledger) see(e *Event) {
	switch {
	case e.Kind == Published, e.Kind == Started:
		l.stood[e.Place] = e.Record
	case e.Kind == Ended && (e.Result == OK || e.Result == SkippedIt || e.Note == finalFailure),
		e.Kind == CopyAcked,
		e.Kind == Skipped:
		l.finished[groupPlace{e.Group, e.Place}] = e.Note != notSkipped
	case e.Kind == Asked && e.Answer == kstage.ClaimDone.String():
		_, id, _ := cutLast(e.Key, "\x00")
		l.ids[[2]string{e.Group, id}] = true
		if e.Place.Topic != "" { // it is of a record without one
			l.ids[[2]string{e.Group, l.stood[e.Place]}] = true
		}
	}
}

// cutLast is strings.Cut at the last sep.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// unfinished returns the first record below an offset that is not finished.
func (l *ledger) unfinished(group string, at Place) (Place, bool) {
	k := groupSpot{group, at.spot()}
	os := l.offsets[k.spot]
	for i := l.next[k]; i < len(os) && os[i] < at.Offset; i++ {
		p := Place{at.Topic, at.Partition, os[i]}
		if !l.ended(group, p) {
			return p, true
		}
		l.next[k] = i + 1
	}
	return Place{}, false
}

// ended says that a record was finished, or is nobody's to finish.
func (l *ledger) ended(group string, p Place) bool {
	if l.finished[groupPlace{group, p}] {
		return true
	}
	rec := recordPlan(&l.r.Plan, l.r.at(p))
	if rec == nil {
		return false
	}
	g := l.r.Plan.groupOf(group)
	switch {
	case rec.Foreign:
		return true
	case !g.Dedupe:
		return false
	case rec.Message != "":
		return l.ids[[2]string{group, rec.Message}]
	}
	return l.ids[[2]string{group, rec.ID}]
}

// at is the record that stands at a place.
func (r *Run) at(p Place) string { return r.Logs[p.Topic][p.Partition][p.Offset].Record }

// commitSafety: no commit passes an unfinished record, at any instant.
func commitSafety(r *Run, f *findings) {
	l := newLedger(r)
	for _, e := range r.History.Events() {
		if e.Kind != Commit {
			l.see(&e)
			continue
		}
		group := strings.TrimSuffix(e.Group, "-retry")
		if p, found := l.unfinished(group, e.Place); found {
			f.add(e.At, "group %s commits %v while %v (%s) is not finished; by %s", e.Group, e.Place, p, r.at(p), e.Member2)
		}
	}
}

// commitOwnership: no commit names a partition that its member has given up before
// the commit was built.
func commitOwnership(r *Run, f *findings) {
	members := map[string]string{} // by the group's id
	given := map[ownership]int32{} // the generation in which it was
	for _, e := range r.History.Events() {
		switch e.Kind {
		case Assigned:
			members[e.Member2] = e.Member
			delete(given, e.ownership())
		case Given:
			given[e.ownership()] = e.Epoch
		case Commit:
			o := ownership{members[e.Member2], e.Place.spot()}
			if epoch, ok := given[o]; ok && e.Epoch > epoch {
				f.add(e.At, "%s commits %v in generation %d, and gave it up in %d", o.member, e.Place, e.Epoch, epoch)
			}
		}
	}
}

// commitEpoch: a commit carries the leader epoch of the record before it: with another
// one, the next owner takes a moved leader for lost data.
func commitEpoch(r *Run, f *findings) {
	offsets := newLedger(r).offsets
	for _, e := range r.History.Events() {
		if e.Kind != Commit {
			continue
		}
		os := offsets[e.Place.spot()]
		i, _ := slices.BinarySearch(os, e.Place.Offset)
		if i == 0 || os[i-1] != e.Place.Offset-1 { // the record was deleted since, or is a hole
			continue
		}
		last := Place{e.Place.Topic, e.Place.Partition, os[i-1]}
		if want := r.Logs[last.Topic][last.Partition][last.Offset].Leader; e.Leader != want {
			f.add(e.At, "%v is committed with leader epoch %d, and %v has %d", e.Place, e.Leader, last, want)
		}
	}
}
