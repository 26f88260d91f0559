package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
	"github.com/kstage/kstage/internal/hook"
)

// Protocol is how groups share their partitions.
type Protocol string

// The protocols. Mixed is drawn from the seed.
const (
	Cooperative Protocol = "cooperative"
	Eager       Protocol = "eager"
	NextGen     Protocol = "next-gen"
	Mixed       Protocol = ""
)

// Settings are what is not left to the seed.
type Settings struct {
	Protocol Protocol
	Records  int  // zero: 300
	Faults   int  // zero: 20; below zero: none
	Plain    bool // 3 brokers, 4 partitions, one group of 2, no deduplication: to compare duplicates
}

// Plan is all that a seed decides before its world begins.
type Plan struct {
	Seed     uint64
	Protocol Protocol
	Brokers  int
	Topics   []TopicPlan
	Groups   []GroupPlan
	Records  []RecordPlan
	Faults   []FaultPlan
	Stretch  [hook.NumberOfPoints]int // each so-manieth visit of a point takes long; 0: none
}

// TopicPlan is a main topic.
type TopicPlan struct {
	Name       string
	Partitions int32
}

// GroupPlan is a group and what its members have in common.
type GroupPlan struct {
	Name      string
	Topics    []string
	Members   int // at the start
	Stages    []time.Duration
	Immediate int
	Backoff   kstage.Backoff
	Dead      kstage.DeadPolicy // zero: the dead-letter topic
	Ordering  kstage.Ordering
	Workers   int
	Window    kstage.Window
	FetchMax  int32
	Dedupe    bool
	FailOpen  bool
	Lease     time.Duration
	Static    bool
	Drain     time.Duration
	Soft      time.Duration
	Quick     bool // its handler takes no time, but for a few records
	Counts    bool // its collector only counts: the quick way through the pipeline
}

// RecordPlan is a record to be published.
type RecordPlan struct {
	After   time.Duration // the one before
	ID      string        // of the record, in one of its headers
	Topic   string
	Key     []byte
	Value   []byte
	Message string // its message id; empty: none. Two records may have the same
	Headers []kgo.RecordHeader
	Into    string // group, whose retry topic it is forged for; empty: it is not
	Foreign bool   // forged, of another group
}

// FaultPlan is one thing that goes wrong. What it happens to, the dice decide when it does.
type FaultPlan struct {
	After time.Duration // the one before
	Kind  string
	Dice  [4]uint32
}

// PlanOf draws a world. It is pure.
func PlanOf(seed uint64, s Settings) Plan {
	d := draw{rand.New(rand.NewPCG(seed, 1))}
	p := Plan{Seed: seed, Protocol: s.Protocol, Brokers: 1 + d.n(3)}
	if p.Protocol == Mixed {
		p.Protocol = oneOf(d, Cooperative, Cooperative, Eager, NextGen)
	}
	if s.Plain {
		p.plain()
	} else {
		p.topics(d)
		p.groups(d)
		p.stretch(d)
	}
	p.records(d, orDefault(s.Records, 300))
	p.faults(d, orDefault(s.Faults, 20))
	return p
}

func orDefault(n, d int) int {
	if n == 0 {
		return d
	}
	return n
}

// draw draws from a seed.
type draw struct{ r *rand.Rand }

func (d draw) n(n int) int            { return d.r.IntN(n) }
func (d draw) percent(n int) bool     { return d.r.IntN(100) < n }
func (d draw) between(lo, hi int) int { return lo + d.r.IntN(hi-lo+1) }
func (d draw) ms(lo, hi int) time.Duration {
	return time.Duration(d.between(lo, hi)) * time.Millisecond
}

func oneOf[T any](d draw, of ...T) T { return of[d.n(len(of))] }

// plain is the world of the prototype that duplicates are compared with.
func (p *Plan) plain() {
	p.Brokers = 3
	p.Topics = []TopicPlan{{"orders", 4}}
	p.Groups = []GroupPlan{{
		Name: "a", Topics: []string{"orders"}, Members: 2, Stages: []time.Duration{30 * time.Minute}, Immediate: 0,
		Workers: 16, Drain: 5 * time.Second, Soft: 25 * time.Second, Lease: 15 * time.Second,
	}}
}

func (p *Plan) topics(d draw) {
	p.Topics = []TopicPlan{{"orders", int32(d.between(1, 4))}}
	if d.percent(50) {
		p.Topics = append(p.Topics, TopicPlan{"events", int32(d.between(1, 3))})
	}
}

func (p *Plan) groups(d draw) {
	p.Groups = append(p.Groups, p.group(d, "a"))
	if d.percent(35) {
		g := p.group(d, "b")
		g.Topics = g.Topics[:1]
		p.Groups = append(p.Groups, g)
	}
	if len(p.Groups) == 2 { // four members at most
		p.Groups[0].Members, p.Groups[1].Members = min(p.Groups[0].Members, 2), min(p.Groups[1].Members, 2)
	}
}

func (p *Plan) group(d draw, name string) GroupPlan {
	g := GroupPlan{
		Name: name, Members: d.between(1, 3),
		Stages:    oneOf(d, nil, []time.Duration{3 * time.Second}, []time.Duration{2 * time.Second, 10 * time.Second}, []time.Duration{5 * time.Second, 40 * time.Second}),
		Immediate: d.n(3), Backoff: kstage.Backoff{Min: d.ms(10, 300), Max: d.ms(300, 2000)},
		Ordering: oneOf(d, kstage.ByKey, kstage.ByKey, kstage.ByKey, kstage.ByPartition, kstage.Unordered),
		Workers:  d.between(1, 8),
		Window:   kstage.Window{Records: d.between(5, 200), Bytes: int64(d.between(2, 200)) << 10, Span: d.between(10, 400)},
		FetchMax: int32(d.between(1, 16)) << 10,
		Dedupe:   d.percent(50), FailOpen: d.percent(20), Lease: oneOf(d, 3*time.Second, 15*time.Second),
		Static: d.percent(15), Drain: d.ms(0, 5000), Soft: d.ms(0, 8000), Counts: d.percent(50), Quick: d.percent(30),
	}
	if d.percent(20) {
		g.Dead = oneOf(d, kstage.Drop, kstage.Block)
	}
	if p.Protocol == NextGen {
		g.Static = false
	}
	for _, t := range p.Topics {
		g.Topics = append(g.Topics, t.Name)
	}
	return g
}

// stretch chooses which races this world has wide.
func (p *Plan) stretch(d draw) {
	for i := range p.Stretch {
		if d.percent(25) {
			p.Stretch[i] = oneOf(d, 1, 5, 25)
		}
	}
}

func (p *Plan) records(d draw, n int) {
	for i := range n {
		r := RecordPlan{
			After: d.ms(0, 160), ID: fmt.Sprintf("r%d", i), Topic: oneOf(d, p.Topics...).Name,
			Key: fmt.Appendf(nil, "k%d", d.n(40)), Value: fmt.Appendf(nil, "value of %d", i),
		}
		if d.percent(10) {
			r.Key = oneOf(d, nil, nil, []byte{})
		}
		if d.percent(5) {
			r.Value = oneOf(d, nil, []byte{})
		}
		if d.percent(5) {
			r.Value = noise(d, d.between(1000, largestValue))
		}
		if d.percent(80) {
			r.Message = "m" + r.ID
		}
		if d.percent(5) && i > 0 {
			r.Message = p.Records[d.n(i)].Message
		}
		r.Headers = userHeaders(d)
		switch g := oneOf(d, p.Groups...); {
		case d.percent(4):
			r.Headers = append(r.Headers, forgedHeaders(d, append(forgeable(), "kstage-id")...)...)
		case len(g.Stages) > 0 && d.percent(3):
			r.Into, r.Message = g.Name, ""
			r.Foreign = d.percent(30)
			r.Headers = append(r.Headers, forgedHeaders(d, forgeable()...)...)
		}
		p.Records = append(p.Records, r)
	}
}

// largestValue is that of a record, in bytes.
const largestValue = 6000

// noise is bytes that no compression makes fewer.
func noise(d draw, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(d.r.Uint32())
	}
	return b
}

// userHeaders are an application's: of any bytes, also twice.
func userHeaders(d draw) (hs []kgo.RecordHeader) {
	for range d.n(4) {
		hs = append(hs, kgo.RecordHeader{Key: oneOf(d, "trace", "tenant", "", "kstage", "kstage-mine"), Value: oneOf(d, nil, []byte{}, []byte("x"), []byte{0xff, 0, 0xfe})})
	}
	return hs
}

// forgeable are the headers by which a forged record of a retry topic must do no harm.
// An id is not among them: it lets a record pass for one that was handled, which is
// why only kstage may be allowed to write to retry topics.
func forgeable() []string {
	return []string{
		"kstage-attempt", "kstage-stage", "kstage-due", "kstage-first-failed-at", "kstage-origin-partition",
		"kstage-origin-topic", "kstage-reason", "kstage-redrive-count",
	}
}

// forgedHeaders are ours, and not by us: on a main topic they mean nothing, on a
// retry topic no more than they may.
func forgedHeaders(d draw, keys ...string) (hs []kgo.RecordHeader) {
	numbers := [][]byte{[]byte("0"), []byte("-1"), []byte("999"), []byte("9223372036854775807"), []byte("99999999999999999999"), []byte("x"), nil, {0xff}}
	for _, key := range keys {
		for range d.n(3) {
			hs = append(hs, kgo.RecordHeader{Key: key, Value: oneOf(d, numbers...)})
		}
	}
	return hs
}

func (p *Plan) faults(d draw, n int) {
	for range n {
		f := FaultPlan{After: d.ms(0, 4000), Kind: drawFault(d)}
		for i := range f.Dice {
			f.Dice[i] = d.r.Uint32()
		}
		p.Faults = append(p.Faults, f)
	}
}
