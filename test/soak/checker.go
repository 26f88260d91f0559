package main

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// checker accounts for every record: what was acknowledged to a producer, what handlers
// did, what is in the dead-letter topic. It is safe for concurrent use.
type checker struct {
	mu        sync.Mutex // guards all below
	records   []account  // by number
	failures  map[int64]*[3]int64
	last      map[lane]int64 // the offset begun last
	running   map[lane]bool
	processes map[int]*ledger
	acked     int
	refused   int // by the producer: nobody knows what became of them
	handled   int
	dead      int
	early     int
	reordered int
	repeated  int
	examples  []string // of violations, the first few
	main      *silences
}

// account is what is known of one record.
type account struct {
	acked   bool
	handled bool
	dead    uint8 // dead letters
	by      int32 // the process that handled it first
	at      int64 // when it did
}

// lane is what must be handled in order: a key of a partition, within one assignment.
type lane struct {
	process   int
	stage     uint8
	partition int32
	epoch     uint32
	key       int64
}

// ledger is what a process left to be handled again: what it had finished since its last
// commit, or above a record that it had not finished.
type ledger struct {
	end      string
	last     int64 // its last sign of life
	repeated int
	older    int // of these: finished longer than commitAge before its last sign of life
}

const commitAge = 1500 * time.Millisecond // commits come each second and take a moment

func newChecker() *checker {
	return &checker{
		failures: map[int64]*[3]int64{}, last: map[lane]int64{}, running: map[lane]bool{},
		processes: map[int]*ledger{}, main: newSilences(),
	}
}

func (c *checker) account(seq int64) *account {
	for int64(len(c.records)) <= seq {
		c.records = append(c.records, account{})
	}
	return &c.records[seq]
}

// answered takes a producer's answer.
func (c *checker) answered(seq int64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.refused++
		return
	}
	c.account(seq).acked = true
	c.acked++
}

// told takes an event of a process.
func (c *checker) told(process int, e event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ledger(process).last = e.At
	l := lane{process, e.Stage, e.Partition, e.Epoch, keyOf(e.Seq)}
	switch e.Kind {
	case begun:
		c.begins(l, e)
		c.running[l] = true
	case succeeded:
		delete(c.running, l)
		c.succeeds(process, e)
	case failed:
		delete(c.running, l)
		c.fails(e)
	case cancelled:
		delete(c.running, l)
	}
}

func (c *checker) begins(l lane, e event) {
	if e.Stage == 0 {
		c.main.note(e.Partition, time.Unix(0, e.At))
	} else {
		c.due(e)
	}
	last, known := c.last[l]
	switch {
	case c.running[l]:
		c.violated(&c.reordered, "two handlers of a key at once", e)
	case known && (e.Offset < last || e.Offset == last && e.Attempt == 1):
		c.violated(&c.reordered, fmt.Sprintf("handled after offset %d", last), e)
	}
	c.last[l] = e.Offset
}

// due checks a record of a retry topic against what its copy says, and against when its
// handler failed for the first time in the stage below.
func (c *checker) due(e event) {
	since := int64(0)
	if f := c.failures[e.Seq]; f != nil {
		since = f[e.Stage-1]
	}
	if e.At < e.Due || e.At < since+int64(stageDelays[e.Stage-1]) {
		c.violated(&c.early, fmt.Sprintf("due %v, failed %v", time.Unix(0, e.Due), time.Unix(0, since)), e)
	}
}

func (c *checker) violated(count *int, what string, e event) {
	*count++
	if len(c.examples) < 20 {
		c.examples = append(c.examples, fmt.Sprintf("%s: %+v", what, e))
	}
}

func (c *checker) succeeds(process int, e event) {
	a := c.account(e.Seq)
	if a.handled {
		c.repeated++
		l := c.ledger(int(a.by))
		l.repeated++
		if l.last-a.at > int64(commitAge) {
			l.older++
		}
		return
	}
	a.handled, a.by, a.at = true, int32(process), e.At
	c.handled++
}

func (c *checker) fails(e event) {
	f := c.failures[e.Seq]
	if f == nil {
		f = &[3]int64{}
		c.failures[e.Seq] = f
	}
	if f[e.Stage] == 0 {
		f[e.Stage] = e.At
	}
}

func (c *checker) ledger(process int) *ledger {
	if c.processes[process] == nil {
		c.processes[process] = &ledger{end: "stopped at the end"}
	}
	return c.processes[process]
}

// ended notes how a process ended: nothing more will come of it.
func (c *checker) ended(process int, how string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ledger(process).end = how
	for l := range c.last {
		if l.process == process {
			delete(c.last, l)
			delete(c.running, l)
		}
	}
}

// deadLetter takes one of the dead-letter topic.
func (c *checker) deadLetter(seq int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.account(seq)
	if a.dead++; a.dead == 1 {
		c.dead++
		return
	}
	c.repeated++
}

// open counts the acknowledged records that have not ended as planned; some of them.
func (c *checker) open() (n int, some []int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for seq := range c.records {
		a := &c.records[seq]
		_, dead := fate(int64(seq))
		if !a.acked || a.dead > 0 || a.handled && !dead {
			continue
		}
		if n++; len(some) < 10 {
			some = append(some, int64(seq))
		}
	}
	return n, some
}

// progress is a line for the terminal.
func (c *checker) progress() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return fmt.Sprintf("acked=%d refused=%d handled=%d failing=%d early=%d reordered=%d duplicates=%d",
		c.acked, c.refused, c.handled, len(c.failures), c.early, c.reordered, c.repeated)
}

// ends tells of each process how it ended and how much of its work was done again.
func (c *checker) ends() (lines []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(c.processes)) {
		l := c.processes[id]
		lines = append(lines, fmt.Sprintf("process %d, %s: %d of its records were handled again, %d of them older than %v", id, l.end, l.repeated, l.older, commitAge))
	}
	return lines
}

// verdict is the last line; broken says that a promise was.
func (c *checker) verdict(ours, plain time.Duration) (line string, broken bool) {
	lost, some := c.open()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, seq := range some {
		c.examples = append(c.examples, fmt.Sprintf("lost: %d", seq))
	}
	line = fmt.Sprintf("acked=%d handled=%d dlq=%d lost=%d early=%d reordered=%d duplicates=%d worst_pause=%.1fs (plain consumer %.1fs)",
		c.acked, c.handled, c.dead, lost, c.early, c.reordered, c.repeated, ours.Seconds(), plain.Seconds())
	return line, lost+c.early+c.reordered > 0 || c.acked == 0
}

// silences measures how long each partition was silent.
type silences struct {
	mu      sync.Mutex // guards all below
	last    map[int32]time.Time
	longest map[int32]time.Duration // since the last reset
}

func newSilences() *silences {
	return &silences{last: map[int32]time.Time{}, longest: map[int32]time.Duration{}}
}

func (s *silences) note(partition int32, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if last, ok := s.last[partition]; ok {
		s.longest[partition] = max(s.longest[partition], at.Sub(last))
	}
	if at.After(s.last[partition]) {
		s.last[partition] = at
	}
}

func (s *silences) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.longest)
}

// worst is the longest silence of the partitions given, up to now.
func (s *silences) worst(partitions []int32, now time.Time) (d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range partitions {
		d = max(d, s.longest[p], now.Sub(s.last[p]))
	}
	return d
}
