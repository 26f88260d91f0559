package sim

import (
	"errors"
	"strings"
	"time"

	"github.com/kstage/kstage"
	"github.com/kstage/kstage/internal/hook"
)

// cleanEnd: after Run no goroutine and no connection is left, and its limits are kept.
func cleanEnd(r *Run, f *findings) {
	for _, s := range r.Left {
		f.add(r.Took, "a goroutine is left:\n%s", s)
	}
	ending := map[string]time.Duration{}
	for _, e := range r.History.Events() {
		switch e.Kind {
		case Ending, Crashed:
			ending[e.Member] = e.At
		case Returned:
			if at, ok := ending[e.Member]; ok && e.At-at > r.Plan.longestEnd(r.Plan.groupOf(e.Group)) {
				f.add(e.At, "%s was told to end at %v: %v ago", e.Member, at, e.At-at)
			}
		}
	}
	for _, m := range r.Members {
		if m.Connections > 0 && !m.Crashed {
			f.add(r.Took, "%s: %d connections are left", m.Name, m.Connections)
		}
		var drain *kstage.DrainError
		if m.Err != nil && !m.Crashed && !errors.As(m.Err, &drain) && !strings.Contains(m.Err.Error(), "is not committed") {
			f.add(r.Took, "%s: Run has returned %v", m.Name, m.Err)
		}
	}
}

// longestEnd is how long Run may take to end: its limits, and what this world's hook
// points add to them.
func (p *Plan) longestEnd(g *GroupPlan) time.Duration {
	longest := g.Soft + hardShutdown + time.Second
	for _, at := range []hook.Point{hook.BeforeGate, hook.BeforeCommit, hook.AfterCommit, hook.BeforeGive, hook.BeforeForget, hook.BeforeEnd, hook.BeforeLeave, hook.BeforeRenew, hook.AfterConfirm} {
		if p.Stretch[at] > 0 {
			longest += 2 * maxStretch
		}
	}
	return longest
}

// counts: each received record is counted once, whatever has become of it.
func counts(r *Run, f *findings) {
	for _, m := range r.Members {
		s := m.Counts
		if sum := s.Processed + s.Retried + s.SentToDLQ + s.Skipped + s.Dropped + s.Duplicates + s.Released + s.Foreign; sum != s.Received {
			f.add(r.Took, "%s: received %d, and told of %d: %+v", m.Name, s.Received, sum, s)
		}
	}
}

// progress: with the last fault over, everything is finished in time.
func progress(r *Run, f *findings) {
	if r.Lag != "" {
		f.add(r.Took, "not finished %v after the last fault: %s", r.Plan.progressLimit(), r.Lag)
	}
}
