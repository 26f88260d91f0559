package sim

import (
	"fmt"
	"hash/fnv"
	"strings"
	"sync"
	"time"
)

// Kind is what kind of thing has happened. No enum: each rule looks at a few of them.
type Kind = string

// The kinds of events.
const (
	Published  = "published" // a broker has acknowledged a record to its producer
	Started    = "started"   // a handler call
	Ended      = "ended"     // a handler call: Note says how
	CopySent   = "copy-sent" // to the client, towards a retry or dead-letter topic
	CopyAcked  = "copy-acked"
	CopyFailed = "copy-failed"
	Commit     = "commit" // a broker has received a commit of one partition
	Assigned   = "assigned"
	Given      = "given" // a partition was given back: Note says how
	Asked      = "asked" // the dedupe store, for a claim: Note is its answer
	Extended   = "extended"
	Sure       = "sure"    // the dedupe store has confirmed a key
	Freed      = "freed"   // the dedupe store has released a key
	Strayed    = "strayed" // the dedupe store was called and failed
	Began      = "began"   // a Run
	Ending     = "ending"  // a member was told to end
	Returned   = "returned"
	Crashed    = "crashed"
	Fault      = "fault"
	Skipped    = "skipped"  // by an operator
	Deleted    = "deleted"  // records below Offset, by retention
	Unwell     = "unwell"   // Health has changed: Note lists its reasons
	Overfull   = "overfull" // a partition holds more than it may
)

// Result is how a handler call has ended.
type Result string

// The results.
const (
	OK         Result = "ok"
	Failed     Result = "failed"
	Permanent  Result = "permanent"
	SkippedIt  Result = "skipped"
	RetryAfter Result = "retry-after"
	Snoozed    Result = "snoozed"
	Panicked   Result = "panicked"
	Exited     Result = "exited"
	Cancelled  Result = "cancelled"
)

// Place is where a record is.
type Place struct {
	Topic     string
	Partition int32
	Offset    int64
}

func (p Place) String() string { return fmt.Sprintf("%s/%d@%d", p.Topic, p.Partition, p.Offset) }

// Event is one thing that has happened. Which fields mean something depends on Kind.
type Event struct {
	At      time.Duration // since the run's start
	Kind    Kind
	Member  string
	Group   string
	Place   Place // of a copy: its source's
	Record  string
	Key     string // of a dedupe call: the store's
	Token   uint64 // of a dedupe call: which claim
	Session int    // of a handler call: which assignment of its partition, by member
	Attempt int
	Stage   int
	Clock   time.Duration // how far the member's wall clock is ahead
	Result  Result
	Answer  string        // of the dedupe store: what it knows of a key
	Wait    time.Duration // what the handler has asked for
	Copy    *CopyFacts
	Member2 string // the group's id of the member
	Epoch   int32  // the group's generation
	Leader  int32  // of a commit: the leader epoch it carries
	Note    string
}

// CopyFacts is what a copy says.
type CopyFacts struct {
	Target         string
	Due, NotBefore time.Time // zero: none
	Attempt, Stage int
	Dead           bool
}

// History is what has happened, in order.
type History struct {
	mu     sync.Mutex // guards events
	start  time.Time
	events []Event
}

func newHistory() *History { return &History{start: time.Now()} }

// add writes an event down. Who calls it before acting is seen before acting.
func (h *History) add(e Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e.At = time.Since(h.start)
	h.events = append(h.events, e)
}

// Events are all so far.
func (h *History) Events() []Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.events[:len(h.events):len(h.events)]
}

// Hash is equal for two runs in which the same happened at the same times.
func (h *History) Hash() uint64 {
	f := fnv.New64a()
	for _, e := range h.Events() {
		_, _ = f.Write([]byte(e.String() + "\n"))
	}
	return f.Sum64()
}

func (e Event) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%13v %-11s %-4s", e.At, e.Kind, e.Member)
	if e.Place.Topic != "" {
		fmt.Fprintf(&b, " %v", e.Place)
	}
	for _, f := range []struct {
		name  string
		value any
		show  bool
	}{
		{"", e.Record, e.Record != ""},
		{"key ", e.Key, e.Key != ""},
		{"session ", e.Session, e.Session != 0},
		{"attempt ", e.Attempt, e.Attempt != 0},
		{"stage ", e.Stage, e.Stage != 0},
		{"clock ", e.Clock, e.Clock != 0},
		{"", e.Result, e.Result != ""},
		{"", e.Answer, e.Answer != ""},
		{"wait ", e.Wait, e.Wait != 0},
		{"epoch ", e.Epoch, e.Member2 != ""},
		{"", e.Note, e.Note != ""},
	} {
		if f.show {
			fmt.Fprintf(&b, " %s%v", f.name, f.value)
		}
	}
	if c := e.Copy; c != nil {
		fmt.Fprintf(&b, " > %s attempt %d stage %d", c.Target, c.Attempt, c.Stage)
	}
	return b.String()
}
