package sim

import (
	"slices"
)

// outcome is what has become of a record in a group.
type outcome struct{ handled, dead, skipped, dropped int }

// outcomes gathers what has become of each record, by group and record.
func outcomes(r *Run) map[[2]string]*outcome {
	os := map[[2]string]*outcome{}
	of := func(group, record string) *outcome {
		k := [2]string{group, record}
		if os[k] == nil {
			os[k] = &outcome{}
		}
		return os[k]
	}
	skipped := map[Place]string{}
	for _, e := range r.History.Events() {
		switch {
		case e.Kind == Started:
			skipped[e.Place] = e.Record
		case e.Kind == Ended && e.Result == OK:
			of(e.Group, e.Record).handled++
		case e.Kind == Ended && e.Result == SkippedIt:
			of(e.Group, e.Record).skipped++
		case e.Kind == Ended && e.Note == finalFailure:
			of(e.Group, e.Record).dropped++
		case e.Kind == Skipped && e.Note != notSkipped:
			of(e.Group, skipped[e.Place]).skipped++
		}
	}
	for _, d := range r.Dead {
		of(d.Group, d.Record).dead++
	}
	return os
}

// noLoss: each acknowledged record ends in each group as it must.
func noLoss(r *Run, f *findings) {
	if r.Lag != "" {
		return // progress says so
	}
	os := outcomes(r)
	gone := deleted(r)
	twins := map[string][]string{} // by message id
	for i := range r.Plan.Records {
		if m := r.Plan.Records[i].Message; m != "" {
			twins[m] = append(twins[m], r.Plan.Records[i].ID)
		}
	}
	for _, e := range r.History.Events() {
		if e.Kind != Published {
			continue
		}
		rec := recordPlan(&r.Plan, e.Record)
		for i := range r.Plan.Groups {
			g := &r.Plan.Groups[i]
			if !g.handles(rec) {
				continue
			}
			want := g.fate(r.Plan.conduct(g, rec))
			got := os[[2]string{g.Name, rec.ID}]
			if got == nil {
				got = &outcome{}
			}
			if got.is(want, g) || e.Place.Offset < gone[e.Place.spot()] || g.Dedupe && slices.ContainsFunc(twins[rec.Message], func(id string) bool {
				o := os[[2]string{g.Name, id}]
				return o != nil && o.is(want, g)
			}) {
				continue
			}
			f.add(e.At, "group %s: %s at %v must be %s, and is: %+v", g.Name, rec.ID, e.Place, want, *got)
		}
	}
}

// deleted is before which offsets records were taken by retention: they may have been
// read before, or not.
func deleted(r *Run) map[spot]int64 {
	gone := map[spot]int64{}
	for _, e := range r.History.Events() {
		if e.Kind == Deleted {
			gone[e.Place.spot()] = max(gone[e.Place.spot()], e.Place.Offset)
		}
	}
	return gone
}

// is says that what must become of a record has.
func (o *outcome) is(want Fate, g *GroupPlan) bool {
	switch want {
	case Handled:
		return o.handled > 0
	case ExplicitSkip:
		return o.skipped > 0
	case Dead:
		return o.dead > 0 || g.Dead != 0 && o.dropped+o.skipped > 0
	}
	return false
}

// handles says that a record is a group's to handle.
func (g *GroupPlan) handles(r *RecordPlan) bool {
	if r.Into != "" {
		return r.Into == g.Name && !r.Foreign
	}
	return slices.Contains(g.Topics, r.Topic)
}

func recordPlan(p *Plan, id string) *RecordPlan {
	i := slices.IndexFunc(p.Records, func(r RecordPlan) bool { return r.ID == id })
	if i < 0 {
		return nil
	}
	return &p.Records[i]
}

// noInvention: a record is dead only where it has to be.
func noInvention(r *Run, f *findings) {
	for _, d := range r.Dead {
		rec := recordPlan(&r.Plan, d.Record)
		if rec == nil {
			f.add(0, "group %s: a dead letter of no record", d.Group)
			continue
		}
		g := r.Plan.groupOf(d.Group)
		if want := g.fate(r.Plan.conduct(g, rec)); want != Dead {
			f.add(0, "group %s: %s is dead (%s, attempt %d), and must be %s", d.Group, d.Record, d.Reason, d.Attempt, want)
		}
	}
}

// deadLettersTold: each dead letter can be read, and says where its record was.
func deadLettersTold(r *Run, f *findings) {
	gone := deleted(r)
	for _, d := range r.Dead {
		switch {
		case d.Place.Offset < gone[d.Place.spot()]:
		case d.Err != nil:
			f.add(0, "group %s: the dead letter of %s cannot be read: %v", d.Group, d.Record, d.Err)
		case r.at(d.Place) != d.Record:
			f.add(0, "group %s: the dead letter of %s says that it was at %v, where %q is", d.Group, d.Record, d.Place, r.at(d.Place))
		}
	}
}

// identicalCopies: key, value and the user's headers are the same in every copy.
func identicalCopies(r *Run, f *findings) {
	for _, e := range r.History.Events() {
		if e.Kind == CopySent && e.Note == changed {
			f.add(e.At, "%s sends a copy of %s: %s", e.Member, e.Record, e.Note)
		}
	}
	for _, d := range r.Dead {
		if d.Changed {
			f.add(0, "group %s: the dead letter of %s: %s", d.Group, d.Record, changed)
		}
	}
}
