package sim

import (
	"errors"
	"strings"
	"time"

	"github.com/kstage/kstage"
)

// cleanEnd: after Run no goroutine and no connection is left, and its limits are kept.
func cleanEnd(r *Run, f *findings) {
	for _, s := range r.Left {
		f.add(r.Took, "a goroutine is left:\n%s", s)
	}
	told := map[string]time.Duration{}
	for _, m := range r.Members {
		if m.Connections > 0 && !m.Crashed {
			f.add(r.Took, "%s: %d connections are left", m.Name, m.Connections)
		}
		var drain *kstage.DrainError
		if m.Err != nil && !m.Crashed && !errors.As(m.Err, &drain) && !strings.Contains(m.Err.Error(), "is not committed") {
			f.add(r.Took, "%s: Run has returned %v", m.Name, m.Err)
		}
	}
	_ = told
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
			switch reason.Kind {
			case kstage.HealthForeignRecords, kstage.HealthGap, kstage.HealthTopicRecreated:
			default:
				f.add(r.Took, "%s still says: %v", m.Name, reason)
			}
		}
	}
}

// progress: with the last fault over, everything is finished in time.
func progress(r *Run, f *findings) {
	if r.Lag != "" {
		f.add(r.Took, "not finished %v after the last fault: %s", progressLimit, r.Lag)
	}
}
