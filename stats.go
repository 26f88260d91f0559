package kstage

import (
	"cmp"
	"slices"
	"time"
)

// Stats is where a Consumer stands.
type Stats struct{ Partitions []PartitionStats }

// PartitionStats is where one assigned partition stands. Offsets are -1 where
// there is none yet.
type PartitionStats struct {
	Topic           string
	Partition       int32
	Stage           int           // 0: main topic
	Committed       int64         // the group's committed offset, as far as this member knows
	Head            int64         // the oldest unfinished record; -1: all that was received is finished
	HighestFinished int64         // the highest finished record: far above Head, something is stuck
	LogEnd          int64         // the partition's end at the last fetch
	Lag             int64         // LogEnd less the next offset to commit; -1: not known
	InFlight        int           // records received and not finished
	Bytes           int64         // memory they hold, counted as WithWindow counts
	Paused          []string      // why it is not fetched: "backpressure", "user", "delay"
	NextDue         time.Time     // of a retry topic: when the first of the waiting records is due; zero: none waits
	Waiting         int           // records of a retry topic that were received and are not due; more may wait at the broker, see Lag
	Late            time.Duration // of a retry topic: how far the last record was past its due time when it was handled
}

// stats lists the windows, sorted.
func (in *intake) stats() []PartitionStats {
	ws := in.snapshot()
	ps := make([]PartitionStats, 0, len(ws))
	for _, w := range ws {
		s := w.stats()
		s.Paused = in.pausedNames(w)
		ps = append(ps, s)
	}
	slices.SortFunc(ps, func(x, y PartitionStats) int {
		return cmp.Or(cmp.Compare(x.Topic, y.Topic), cmp.Compare(x.Partition, y.Partition))
	})
	return ps
}

func (w *window) stats() PartitionStats {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := PartitionStats{
		Topic: w.topic, Partition: w.partition,
		Committed: w.committed, Head: -1, HighestFinished: -1, LogEnd: w.logEnd, Lag: -1,
		InFlight: w.tracker.Unfinished(), Bytes: w.bytes.Load(), Waiting: w.line.len(), Late: time.Duration(w.late.Load()),
	}
	if w.stage != nil {
		s.Stage = w.stage.number
		s.NextDue, _, _ = w.line.head()
	}
	if o, ok := w.tracker.Head(); ok {
		s.Head = o
	}
	if o, ok := w.tracker.Highest(); ok {
		s.HighestFinished = o
	}
	next := w.committed
	if m, ok := w.tracker.Mark(); ok {
		next = m.Offset
	} else if next < 0 { // of a new group
		next = s.Head
	}
	if next >= 0 && w.logEnd >= 0 {
		s.Lag = max(0, w.logEnd-next)
	}
	return s
}
