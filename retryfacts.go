package kstage

import (
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// retryFacts is what is known of a record from a retry topic beyond its facts.
type retryFacts struct {
	due       time.Time // no handler call sooner
	notBefore time.Time // after being due it hops until then; zero: it does not
	foreign   bool      // another group's
}

// stageReader reads what the copies in a stage's topic tell. Their headers are
// input from outside: what cannot be true counts as missing.
type stageReader struct {
	stage
	group     string
	immediate int // retries of each stage
	identify  func(*kgo.Record) string
}

// factsOf reads the facts of a record that was first seen now.
func (s *stageReader) factsOf(r *kgo.Record, topicID [16]byte, now time.Time) (f facts, more retryFacts) {
	var attempt, number, due, notBefore, failed []byte
	for _, h := range r.Headers {
		switch h.Key { // the last one of a name counts
		case headerAttempt:
			attempt = h.Value
		case headerStage:
			number = h.Value
		case headerDue:
			due = h.Value
		case headerNotBefore:
			notBefore = h.Value
		case headerFirstFailedAt:
			failed = h.Value
		case headerGroup:
			more.foreign = string(h.Value) != s.group
		}
	}
	f = facts{topicID: topicID, identify: s.identify, stage: s.stageOf(number), firstFailedAt: earlier(timeOf(failed), now)}
	f.attempt = s.attemptOf(attempt, f.stage)
	if more.foreign { // nobody waits for it
		more.due = now
		return f, more
	}
	more.due = dueTime(timeOf(due), r.Timestamp, now, s.delay)
	more.notBefore = timeOf(notBefore)
	return f, more
}

// stageOf is the record's stage: the header can only lower that of the topic.
func (s *stageReader) stageOf(header []byte) int {
	if n, ok := numberOf(header); ok && n < int64(s.number) {
		return int(n)
	}
	return s.number
}

// attemptOf counts the next handler call; the header tells of those before.
func (s *stageReader) attemptOf(header []byte, stage int) int {
	n, _ := numberOf(header)
	return int(min(n, int64(1+s.immediate)*int64(stage+1)-1)) + 1
}

// dueTime is when a record may be handled: as the header says, but however that
// was forged, no later than its stage's delay after it was written, or first seen.
// Without a legal header that is at once.
func dueTime(header, written, seen time.Time, delay time.Duration) time.Time {
	if header.IsZero() {
		return seen
	}
	written = written.Add(time.Millisecond) // a timestamp is cut to the one before
	return earlier(earlier(header, written.Add(delay)), seen.Add(delay))
}

func earlier(x, y time.Time) time.Time {
	if y.Before(x) {
		return y
	}
	return x
}

// numberOf reads a decimal number that is not negative.
func numberOf(v []byte) (int64, bool) {
	n, err := strconv.ParseUint(string(v), 10, 63)
	if err != nil {
		return 0, false
	}
	return int64(n), true
}

// timeOf reads unix milliseconds; zero where there are none.
func timeOf(v []byte) time.Time {
	if n, ok := numberOf(v); ok {
		return time.UnixMilli(n)
	}
	return time.Time{}
}
