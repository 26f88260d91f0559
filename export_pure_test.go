package kstage

import (
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
)

// What the tests of the pure parts see of them.

// Limits of the header codec.
const (
	HeaderBudget = headerBudget
	MaxErrorText = maxErrorText
	MaxShortText = maxShortText
	MaxRedrives  = maxRedrives
	CutMark      = cutMark
)

// Verdicts, by name.
const (
	VerdictFinished  = "finished"
	VerdictSkipped   = "skipped"
	VerdictRetry     = "retry"
	VerdictDead      = "dead"
	VerdictReleased  = "released"
	VerdictLater     = "later"
	VerdictHopped    = "hopped"
	VerdictForeign   = "foreign"
	VerdictHandleNow = "handle now"
)

// Judgement is a verdict.
type Judgement struct {
	Kind   string
	Wait   time.Duration
	Reason Reason
}

// JudgeCase is what judge goes by.
type JudgeCase struct {
	Immediate int
	Backoff   Backoff
	MaxAge    time.Duration
	Classify  func(error) Class
	Random    func(int64) int64

	Retries            int
	Blocked, Cancelled bool
	Age                time.Duration // since the first failure
	Err                error
}

// Judge calls judge.
func Judge(c JudgeCase) Judgement {
	if c.Random == nil {
		c.Random = jitter
	}
	now := time.Unix(1_700_000_000, 0)
	p := policy{immediate: c.Immediate, backoff: c.Backoff, maxAge: c.MaxAge, classify: c.Classify, random: c.Random}
	a := attempt{retries: c.Retries, blocked: c.Blocked, cancelled: c.Cancelled, firstFailedAt: now.Add(-c.Age), now: now}
	v := judge(&p, a, c.Err)
	names := map[verdictKind]string{
		finished: VerdictFinished, skipped: VerdictSkipped, retryHere: VerdictRetry, retryLater: VerdictLater, hopped: VerdictHopped,
		foreign: VerdictForeign, dead: VerdictDead, released: VerdictReleased, handleNow: VerdictHandleNow,
	}
	return Judgement{names[v.kind], v.wait, v.reason}
}

// Wait and Limit are the back-off's.
func (b Backoff) Wait(n int, random func(int64) int64) time.Duration { return b.wait(n, random) }
func (b Backoff) Limit(n int) time.Duration                          { return b.limit(n) }

// Jitter is the real one.
func Jitter(n int64) int64 { return jitter(n) }

// NewTimeoutError is the failure of a handler that overran its timeout.
func NewTimeoutError(after time.Duration, err error) error { return &timeoutError{after, err} }

// NewPanicError is what a panic with v becomes.
func NewPanicError(v any) *PanicError { return newPanicError(v) }

// ErrorType, CutText, Ours and Readable are the functions behind the headers.
func ErrorType(err error) string        { return errorType(err) }
func CutText(s string, most int) string { return cutText(s, most) }
func Ours(key string) bool              { return ours(key) }
func Readable(err error) error          { return readable(err) }

// CopyHeaders are the headers of a copy that tells d. ValueOmitted is -1 where the
// value is there.
func CopyHeaders(d DeadLetter, copyID string, own []kgo.RecordHeader) []kgo.RecordHeader {
	f := copyFacts{
		id: []byte(d.ID), copyID: []byte(copyID), origin: d.Origin, group: d.Group, attempt: d.Attempt, stage: d.Stage,
		firstFailedAt: d.FirstFailedAt, reason: d.Reason, valueOmitted: d.ValueOmitted,
		lastFailure:  lastFailure{errorType: d.ErrorType, errorText: d.Error, stack: d.Stack, at: d.LastFailedAt},
		redriveCount: d.RedriveCount, redriveID: d.RedriveID,
	}
	return f.headers(own, &sheet{})
}

// RedriveFacts are the facts a main topic's record carries on.
func RedriveFacts(hs []kgo.RecordHeader) (int, string) { return redriveFacts(hs) }

// NewMessage makes a Message as the intake does.
func NewMessage(r *kgo.Record, topicID [16]byte, attempt int, firstFailedAt time.Time) Message {
	return Message{Record: r, facts: &facts{topicID: topicID, attempt: attempt, firstFailedAt: firstFailedAt}}
}

// Guard is a guard with a board of its own.
type Guard struct{ g guard }

// NewGuard makes one that logs to l.
func NewGuard(l *zap.Logger) *Guard {
	return &Guard{guard{log: l, board: newHealthBoard(func(StateEvent) {})}}
}

// Reasons are what its board says.
func (g *Guard) Reasons() []HealthReason { return g.g.board.health(true).Reasons }

// Redact makes it show panics as redacted.
func (g *Guard) Redact(f func(string) string) { g.g.redact = f }

// Classifier, KeyRedactor and Collector are guarded ones.
func (g *Guard) Classifier(f func(error) Class) func(error) Class { return g.g.classifier(f) }

func (g *Guard) KeyRedactor(f func([]byte) string) func([]byte) string {
	return textFunc(&g.g, "WithKeyRedactor", f)
}
func (g *Guard) Collector(m MetricsCollector) MetricsCollector { return g.g.collector(m) }

// Applied is what options come to, as far as tests look at it.
type Applied struct {
	Dead       DeadPolicy
	DLQ        string
	Stack      bool
	Oversize   Oversize
	Topics     []string
	Pattern    string
	Middleware int
	Brokers    []string
	Workers    int
}

// Apply applies options to the defaults.
func Apply(opts ...ConsumerOption) Applied {
	c := applyConsumerOptions(opts)
	return Applied{c.dead, c.dlqName(), c.dlqStack, c.dlqOversize, c.topics, c.pattern, len(c.middleware), c.brokers, c.workers}
}
