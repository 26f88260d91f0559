package sim

import (
	"time"
)

// neverEarly: no record of a retry topic is handled before it is due, by the wall
// clock of the member that handles it, nor before its handler wanted; and no copy
// says that it is due sooner than it is.
func neverEarly(r *Run, f *findings) {
	epoch := r.History.start
	ends := map[[2]string]Event{} // the last call, by member and record
	acked := map[Place]time.Duration{}
	for _, e := range r.History.Events() {
		switch e.Kind {
		case Started:
			checkDue(r, f, &e, epoch)
		case Ended:
			ends[[2]string{e.Member, e.Record}] = e
		case CopySent:
			if end, ok := ends[[2]string{e.Member, e.Record}]; ok && end.Place == e.Place {
				checkCopy(r, f, &e, &end, epoch)
			}
		default:
		}
	}
	_ = acked
}

// checkDue looks at a record of a retry topic that is handled. What was forged may be
// handled at once.
func checkDue(r *Run, f *findings, e *Event, epoch time.Time) {
	g := r.Plan.groupOf(e.Group)
	stage := g.stageOf(e.Place.Topic)
	rec := recordPlan(&r.Plan, e.Record)
	if stage == 0 || rec.Into != "" || e.Copy == nil || e.Attempt == 0 || e.Copy.Due.IsZero() {
		return
	}
	now := epoch.Add(e.At + e.Clock)
	// Headers are rounded up to milliseconds. A time that is far off bounds nothing: the stage's delay from the moment when the
	// record was written does, and by a clock that is behind it was seen before.
	due := e.Copy.Due
	if wait := now.Sub(due); wait <= -time.Millisecond && e.Clock == 0 && !r.skewed(e) {
		f.add(e.At, "%s handles %v (%s) %v before it is due", e.Member, e.Place, e.Record, -wait)
	}
	if !e.Copy.NotBefore.IsZero() && now.Before(e.Copy.NotBefore) {
		f.add(e.At, "%s handles %v (%s) %v sooner than its handler wanted", e.Member, e.Place, e.Record, e.Copy.NotBefore.Sub(now))
	}
}

// skewed says that members' clocks differ in this run: then who wrote the due time
// may be ahead, and what bounds it is checked by checkCopy.
func (r *Run) skewed(*Event) bool {
	for _, f := range r.Plan.Faults {
		if f.Kind == "clock-jumps" {
			return true
		}
	}
	return false
}

// checkCopy looks at what a copy says that was sent after a call.
func checkCopy(r *Run, f *findings, e, end *Event, epoch time.Time) {
	g := r.Plan.groupOf(e.Group)
	stage := g.stageOf(e.Copy.Target)
	if stage == 0 || end.Result == Cancelled {
		return
	}
	returned := epoch.Add(end.At + end.Clock)
	due, notBefore := e.Copy.Due, e.Copy.NotBefore
	if e.Clock != end.Clock { // it has jumped meanwhile
		return
	}
	if notBefore.IsZero() && due.Before(returned.Add(g.Stages[stage-1])) {
		f.add(e.At, "%s: the copy of %v to %s is due %v after its handler returned", e.Member, e.Place, e.Copy.Target, due.Sub(returned))
	}
	soonest := due
	if notBefore.After(soonest) {
		soonest = notBefore
	}
	if soonest.Before(returned.Add(end.Wait)) {
		f.add(e.At, "%s: the handler of %v asked for %v, its copy to %s is due after %v", e.Member, e.Place, end.Wait, e.Copy.Target, soonest.Sub(returned))
	}
}

// stageOf is a retry topic's stage; 0: it is none.
func (g *GroupPlan) stageOf(topic string) int {
	for i := range g.Stages {
		if g.retryTopic(i+1) == topic {
			return i + 1
		}
	}
	return 0
}

// attempts: a call's number is one more than that of a call that has failed before
// it; neither a cancelled call nor a snooze spends one; and there are no more than
// the ladder has.
func attempts(r *Run, f *findings) {
	spent := map[[2]string]map[int]bool{} // by group and record: numbers of calls that have failed
	for _, e := range r.History.Events() {
		k := [2]string{e.Group, e.Record}
		switch {
		case e.Kind == Started:
			rec := recordPlan(&r.Plan, e.Record)
			switch {
			case rec == nil, rec.Into != "":
			case e.Attempt > 1 && !spent[k][e.Attempt-1]:
				f.add(e.At, "%s handles %v (%s) as attempt %d, and no attempt %d has failed", e.Member, e.Place, e.Record, e.Attempt, e.Attempt-1)
			case e.Attempt > r.Plan.groupOf(e.Group).attempts():
				if g := r.Plan.groupOf(e.Group); g.Dead == 0 {
					f.add(e.At, "%s handles %v (%s) as attempt %d of %d", e.Member, e.Place, e.Record, e.Attempt, g.attempts())
				}
			}
		case e.Kind == Ended && e.Result.spends():
			if spent[k] == nil {
				spent[k] = map[int]bool{}
			}
			spent[k][e.Attempt] = true
		}
	}
}

// spends says that such a call costs an attempt.
func (r Result) spends() bool {
	switch r {
	case Failed, RetryAfter, Panicked, Exited, Permanent:
		return true
	case OK, SkippedIt, Snoozed, Cancelled:
	}
	return false
}
