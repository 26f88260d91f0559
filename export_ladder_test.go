package kstage

import (
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage/internal/offsets"
)

// What the tests of the ladder's pure parts see of them.

// LookAhead and LongestSleep are the line's.
const (
	LookAhead    = lookAhead
	LongestSleep = longestSleep
)

// DueTime is when a retry record may be handled.
var DueTime = dueTime

// RetryRead is what a retry topic's reader makes of a record.
type RetryRead struct {
	Attempt, Stage          int
	Due, NotBefore, Failed  time.Time
	Foreign, WithoutFailure bool
}

// ReadRetry reads a record of stage number's topic, first seen now.
func ReadRetry(number int, delay time.Duration, immediate int, r *kgo.Record, now time.Time) RetryRead {
	s := &stageReader{stage: stage{number: number, topic: r.Topic, delay: delay}, group: "g", immediate: immediate}
	f, more := s.factsOf(r, [16]byte{}, now)
	return RetryRead{f.attempt, f.stage, more.due, more.notBefore, f.firstFailedAt, more.foreign, f.firstFailedAt.IsZero()}
}

// LadderCase is what judge and await go by where there are stages.
type LadderCase struct {
	Stages    []time.Duration
	Immediate int
	MaxAge    time.Duration
	Classify  func(error) Class

	Stage, Attempt, Retries int
	Blocked, Cancelled      bool
	Now, FirstFailedAt      time.Time
	Err                     error

	// of await alone
	Main, Foreign bool
	NotBefore     time.Time
}

// LadderVerdict is a verdict in full.
type LadderVerdict struct {
	Kind      string
	Wait      time.Duration
	Spends    bool
	To, As    int
	NotBefore time.Time
	Reason    Reason
}

func (c *LadderCase) policy() *policy {
	return &policy{immediate: c.Immediate, backoff: Backoff{Min: time.Second, Max: time.Second}, stages: c.Stages, maxAge: c.MaxAge, classify: c.Classify, random: jitter}
}

// JudgeLadder calls judge.
func JudgeLadder(c LadderCase) LadderVerdict {
	return toldOf(judge(c.policy(), attempt{
		stage: c.Stage, number: c.Attempt, retries: c.Retries, blocked: c.Blocked, cancelled: c.Cancelled, firstFailedAt: c.FirstFailedAt, now: c.Now,
	}, c.Err))
}

// Await calls await.
func Await(c LadderCase) LadderVerdict {
	f := &facts{attempt: 1, stage: c.Stage, firstFailedAt: c.FirstFailedAt}
	if !c.Main {
		f.retry = &retryFacts{notBefore: c.NotBefore, foreign: c.Foreign}
	}
	return toldOf(await(c.policy(), f, c.Now))
}

func toldOf(v verdict) LadderVerdict {
	names := map[verdictKind]string{
		finished: VerdictFinished, skipped: VerdictSkipped, retryHere: VerdictRetry, retryLater: VerdictLater, hopped: VerdictHopped,
		foreign: VerdictForeign, dead: VerdictDead, released: VerdictReleased, handleNow: VerdictHandleNow,
	}
	return LadderVerdict{names[v.kind], v.wait, v.spends, v.to, v.as, v.notBefore, v.reason}
}

// Line is a line of records that wait; it gives each an offset, from 0 on.
type Line struct {
	l    dueLine
	next int64
}

// Add puts a batch at its end.
func (l *Line) Add(dues ...time.Time) {
	b := &batch{done: offsets.NewDense(l.next, len(dues), 0), facts: make([]facts, len(dues))}
	for i, due := range dues {
		b.facts[i].retry = &retryFacts{due: due}
	}
	l.l.batches = append(l.l.batches, b)
	l.next += int64(len(dues))
}

// Advance returns the offsets that start now, as they are given to lanes.
func (l *Line) Advance(now time.Time) (started []int64) {
	l.l.advance(now, func(b *batch, from, end int) {
		for i := from; i < end; i++ {
			started = append(started, b.done.Offset(i))
		}
	})
	return started
}

// Len, Head, Far, Watch and Close are the line's.
func (l *Line) Len() int                            { return l.l.len() }
func (l *Line) Head() (time.Time, int64, bool)      { return l.l.head() }
func (l *Line) Far(now time.Time) (time.Time, bool) { return l.l.far(now) }
func (l *Line) Watch(now time.Time, wake func())    { l.l.watch(now, wake) }
func (l *Line) Close()                              { l.l.close() }
