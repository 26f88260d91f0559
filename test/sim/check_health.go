package sim

import (
	"strings"
	"time"

	"github.com/kstage/kstage"
	"github.com/kstage/kstage/internal/hook"
)

// bounds: no partition holds more than its window and a fetch.
func bounds(r *Run, f *findings) {
	for _, e := range r.History.Events() {
		if e.Kind == Overfull {
			g := r.Plan.groupOf(e.Group)
			stage := g.stageOf(e.Place.Topic)
			f.add(e.At, "%s holds %d records and %s of %s/%d: at most %d and %s", e.Member, e.Attempt, e.Note, e.Place.Topic, e.Place.Partition, g.mostRecords(stage), kilobytes(g.mostBytes(stage)))
		}
	}
}

// target is a topic that a member writes copies to.
type target struct{ member, topic string }

// healthTells: while a copy cannot be written, Health says so within two looks.
func healthTells(r *Run, f *findings) {
	if r.Plan.Stretch[hook.BeforeResolve] > 0 {
		return // it hears of each answer late, one after the other
	}
	said := map[string]string{} // by members, at the last look
	failed := map[target]time.Duration{}
	owned := map[ownership]bool{}
	for _, e := range r.History.Events() {
		for t, at := range failed {
			if e.At > at+2*lookEach+maxStretch {
				delete(failed, t)
				if !strings.Contains(said[t.member], kstage.HealthHandOffFailing.String()+" "+t.topic) {
					f.add(at, "%s could not write to %s, and says %q", t.member, t.topic, said[t.member])
				}
			}
		}
		switch e.Kind {
		case Assigned:
			owned[e.ownership()] = true
		case Unwell:
			said[e.Member] = e.Note
		case CopyFailed:
			if k := (target{e.Member, e.Copy.Target}); owned[e.ownership()] && !strings.Contains(e.Note, "MESSAGE_TOO_LARGE") && failed[k] == 0 {
				failed[k] = e.At
			}
		case CopyAcked:
			delete(failed, target{e.Member, e.Copy.Target})
		case Given:
			delete(owned, e.ownership())
			for t := range failed { // it may have been given up with its partition
				if t.member == e.Member {
					delete(failed, t)
				}
			}
		case Returned, Crashed, Skipped, Fault: // a fault may have ended
			for t := range failed {
				if t.member == e.Member || e.Kind == Fault {
					delete(failed, t)
				}
			}
		}
	}
}

// healthyAgain: when all is finished every member is live and ready, and has nothing
// to say but of what was in the last minutes.
func healthyAgain(r *Run, f *findings) {
	if r.Lag != "" {
		return
	}
	for _, m := range r.Members {
		if !m.Ran {
			continue
		}
		if !m.Calm.Live || !m.Calm.Ready {
			f.add(r.Took, "%s: live %v, ready %v: %v", m.Name, m.Calm.Live, m.Calm.Ready, m.Calm.Reasons)
		}
		for _, reason := range m.Calm.Reasons {
			if !isNotice(reason.Kind) {
				f.add(r.Took, "%s still says: %v", m.Name, reason)
			}
		}
	}
}

// isNotice says that a reason is told of for some minutes, whatever comes after.
func isNotice(k kstage.ReasonKind) bool {
	return k == kstage.HealthForeignRecords || k == kstage.HealthGap || k == kstage.HealthTopicRecreated
}
