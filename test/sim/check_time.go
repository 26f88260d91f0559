package sim

import (
	"fmt"
	"slices"
	"time"
)

// neverEarly: no record of a retry topic is handled before it is due, by the wall
// clock of the member that handles it, nor before its handler wanted; and no copy
// says that it is due sooner than it is.
func neverEarly(r *Run, f *findings) {
	epoch := r.History.start
	ends := map[call][]Event{}
	ahead := map[string]time.Duration{} // the most that each member's clock was ahead: a record may have come due by then
	for _, e := range r.History.Events() {
		switch e.Kind {
		case Started:
			ahead[e.Member] = max(ahead[e.Member], e.Clock)
			checkDue(r, f, &e, epoch.Add(e.At+ahead[e.Member]))
		case Ended:
			ahead[e.Member] = max(ahead[e.Member], e.Clock)
			k := call{e.Member, e.Place, e.Attempt}
			if e.Result == Snoozed {
				k.attempt--
			}
			ends[k] = append(ends[k], e)
		case CopySent:
			checkCopies(r, f, &e, ends[call{e.Member, e.Place, e.Copy.Attempt}], epoch)
		}
	}
}

// call is an attempt of a member at a record.
type call struct {
	member  string
	place   Place
	attempt int
}

// checkDue looks at a record of a retry topic that is handled. What was forged may be
// handled at once.
func checkDue(r *Run, f *findings, e *Event, now time.Time) {
	g := r.Plan.groupOf(e.Group)
	rec := recordPlan(&r.Plan, e.Record)
	if g.stageOf(e.Place.Topic) == 0 || rec.Into != "" || e.Copy == nil || e.Copy.Due.IsZero() {
		return
	}
	// Headers are rounded up to milliseconds. Where clocks differ, a due time may be that
	// of a clock far ahead, and the stage's delay from the moment of writing bounds it.
	if early := e.Copy.Due.Sub(now); early >= time.Millisecond && !r.skewed() {
		f.add(e.At, "%s handles %v (%s) %v before it is due", e.Member, e.Place, e.Record, early)
	}
	if early := e.Copy.NotBefore.Sub(now); !e.Copy.NotBefore.IsZero() && early > 0 {
		f.add(e.At, "%s handles %v (%s) %v sooner than its handler wanted", e.Member, e.Place, e.Record, early)
	}
}

// skewed says that members' clocks differ in this run.
func (r *Run) skewed() bool {
	return slices.ContainsFunc(r.Plan.Faults, func(f FaultPlan) bool { return f.Kind == "clock-jumps" })
}

// checkCopies looks at what a copy says that was sent after one of these calls.
func checkCopies(r *Run, f *findings, e *Event, ends []Event, epoch time.Time) {
	wrong := ""
	for _, end := range ends {
		if wrong = copyIsWrong(r, e, &end, epoch); wrong == "" {
			return
		}
	}
	if wrong != "" {
		f.add(e.At, "%s: the copy of %v to %s %s", e.Member, e.Place, e.Copy.Target, wrong)
	}
}

// copyIsWrong says what is wrong with a copy that was sent after a call; empty: nothing.
func copyIsWrong(r *Run, e, end *Event, epoch time.Time) string {
	g := r.Plan.groupOf(e.Group)
	stage := g.stageOf(e.Copy.Target)
	if stage == 0 || e.Clock != end.Clock { // it has jumped meanwhile
		return ""
	}
	returned := epoch.Add(end.At + end.Clock)
	due, notBefore := e.Copy.Due, e.Copy.NotBefore
	if notBefore.IsZero() && due.Before(returned.Add(g.Stages[stage-1])) {
		return fmt.Sprintf("is due %v after the handler returned", due.Sub(returned))
	}
	if soonest := later(due, notBefore); soonest.Before(returned.Add(end.Wait)) {
		return fmt.Sprintf("is due after %v, and the handler has asked for %v", soonest.Sub(returned), end.Wait)
	}
	return ""
}

func later(x, y time.Time) time.Time {
	if y.After(x) {
		return y
	}
	return x
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
