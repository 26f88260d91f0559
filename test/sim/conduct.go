package sim

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"time"
)

// Conduct is how a group's handler treats a record: a pure function of the seed, so
// that what must become of the record is known beforehand.
type Conduct struct {
	Takes time.Duration
	Deaf  bool // to the end of its context
	Not   Result
	Times int           // how often it is Not, by attempts; below zero: always
	Wait  time.Duration // RetryAfter, Snoozed
}

// conduct of a group's handler for a record. Records of one message id are treated
// alike, since any of them may be the one that is handled.
func (p *Plan) conduct(g *GroupPlan, r *RecordPlan) Conduct {
	h := fnv.New64a()
	id := r.ID
	if r.Message != "" {
		id = r.Message
	}
	_, _ = fmt.Fprint(h, p.Seed, g.Name, id)
	d := draw{rand.New(rand.NewPCG(h.Sum64(), 2))}
	c := Conduct{Takes: d.ms(1, 300), Deaf: d.percent(30), Not: OK}
	if g.Quick {
		c.Takes = 0
	}
	switch {
	case d.percent(3):
		c.Takes = d.ms(1000, 10_000)
	case d.n(400) == 0: // and mostly does not hear
		c.Takes, c.Deaf = d.ms(20_000, 40_000), d.percent(70)
	}
	if r.Into != "" || !d.percent(18) {
		return c
	}
	c.Not = oneOf(d, Failed, Failed, Failed, Failed, Panicked, Exited, Permanent, Permanent, SkippedIt, RetryAfter, Snoozed)
	c.Times = 1
	c.Wait = d.ms(0, 15_000)
	switch c.Not {
	case Failed, Panicked, Exited:
		c.Times = oneOf(d, 1, 1, 1, 2, 3, -1)
	case Permanent, SkippedIt:
		c.Times = -1
	case OK, RetryAfter, Snoozed, Cancelled:
	}
	return c
}

// Fate is what must become of a record in a group.
type Fate string

// The fates.
const (
	Handled      Fate = "handled"
	Dead         Fate = "dead"
	ExplicitSkip Fate = "skipped"
)

// fate of a record that is treated so.
func (g *GroupPlan) fate(c Conduct) Fate {
	switch c.Not {
	case OK, Snoozed, Cancelled:
		return Handled
	case Permanent:
		return Dead
	case SkippedIt:
		return ExplicitSkip
	case RetryAfter:
		if len(g.Stages) == 0 && g.Immediate == 0 {
			return Dead
		}
		return Handled
	case Failed, Panicked, Exited:
	}
	if c.Times < 0 || c.Times >= g.attempts() {
		return Dead
	}
	return Handled
}

// attempts that a record has.
func (g *GroupPlan) attempts() int { return (1 + g.Immediate) * (1 + len(g.Stages)) }

// final says that a failure of this attempt is the record's last.
func (g *GroupPlan) final(c Conduct, attempt int) bool {
	switch c.Not {
	case Permanent:
		return true
	case RetryAfter:
		return len(g.Stages) == 0 && g.Immediate == 0
	case Failed, Panicked, Exited:
		return attempt >= g.attempts()
	case OK, SkippedIt, Snoozed, Cancelled:
	}
	return false
}

// retryTopic is a stage's.
func (g *GroupPlan) retryTopic(stage int) string { return fmt.Sprintf("%s-retry-%d", g.Name, stage) }

// retryGroup reads the retry topics.
func (g *GroupPlan) retryGroup() string { return g.Name + "-retry" }

// dlq is the dead-letter topic; empty: none.
func (g *GroupPlan) dlq() string {
	if g.Dead != 0 {
		return ""
	}
	return g.Name + "-dlq"
}

// reads lists the topics whose offsets the group commits, by the group that commits them.
func (g *GroupPlan) reads() map[string][]string {
	m := map[string][]string{g.Name: g.Topics}
	for i := range g.Stages {
		m[g.retryGroup()] = append(m[g.retryGroup()], g.retryTopic(i+1))
	}
	return m
}
