package kstage_test

import (
	"sync"
	"time"

	"github.com/kstage/kstage"
)

// delivery is one handler call.
type delivery struct {
	Topic     string
	Partition int32
	Offset    int64
	Key       string
	Attempt   int
	At        time.Time
}

// journal notes handler calls.
type journal struct {
	mu    sync.Mutex
	calls []delivery
}

func (j *journal) note(m kstage.Message) delivery {
	j.mu.Lock()
	defer j.mu.Unlock()
	d := delivery{m.Record.Topic, m.Record.Partition, m.Record.Offset, string(m.Key()), m.Attempt(), time.Now()}
	j.calls = append(j.calls, d)
	return d
}

func (j *journal) all() []delivery {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]delivery(nil), j.calls...)
}

func (j *journal) len() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.calls)
}

// times counts the calls for each offset of a partition.
func (j *journal) times(partition int32) map[int64]int {
	n := map[int64]int{}
	for _, d := range j.all() {
		if d.Partition == partition {
			n[d.Offset]++
		}
	}
	return n
}
