package sim

import (
	"errors"
	"strings"

	"github.com/kstage/kstage"
)

// cleanEnd: after Run no goroutine and no connection is left, and its limits are kept.
func cleanEnd(r *Run, f *findings) {
	for _, s := range r.Left {
		f.add(r.Took, "a goroutine is left:\n%s", s)
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
