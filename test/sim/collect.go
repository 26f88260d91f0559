package sim

import (
	"context"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
)

// Stood is what stands at a place.
type Stood struct {
	Record string
	Leader int32 // leader epoch
}

// DeadRecord is a dead letter.
type DeadRecord struct {
	Group   string
	Record  string
	Place   Place // where it was first read
	Reason  kstage.Reason
	Attempt int
	Err     error // it cannot be decoded
	Changed bool  // key, value or user headers are not what was published
}

// MemberEnd is how a member has ended.
type MemberEnd struct {
	Name, Group string
	Crashed     bool
	Err         error
	Counts      kstage.CounterSnapshot
	Connections int           // that were open a second after Run had returned
	Calm        kstage.Health // when all was finished; of members that ran then
	Ran         bool          // then
}

// collect reads all topics and asks all members for the last time.
func (w *world) collect(r *Run, calm map[*member]kstage.Health) {
	wait(time.Second)
	for _, m := range w.all {
		r.Members = append(r.Members, MemberEnd{
			Name: m.name, Group: m.group.Name, Crashed: m.crashed.Load(), Err: m.err, Counts: m.counts.Snapshot(),
			Connections: w.net.open(m.name), Calm: calm[m], Ran: slices.Contains(w.members, m),
		})
	}
	r.Logs = map[string]map[int32]map[int64]Stood{}
	for _, t := range w.plan.Topics {
		w.read(r, t.Name, nil)
	}
	for i := range w.plan.Groups {
		g := &w.plan.Groups[i]
		for _, t := range w.targets(g) {
			w.read(r, t, func(rec *kgo.Record) {
				if t == g.dlq() {
					r.Dead = append(r.Dead, w.deadRecord(g, rec))
				}
			})
		}
	}
}

func (w *world) deadRecord(g *GroupPlan, rec *kgo.Record) DeadRecord {
	d, err := kstage.DecodeDeadLetter(rec)
	return DeadRecord{
		Group: g.Name, Record: recordOf(rec.Headers), Place: Place{d.Origin.Topic, d.Origin.Partition, d.Origin.Offset},
		Reason: d.Reason, Attempt: d.Attempt, Err: err, Changed: !w.untouched(rec),
	}
}

// read reads a topic, as far as it is acknowledged or committed.
func (w *world) read(r *Run, topic string, each func(*kgo.Record)) {
	r.Logs[topic] = map[int32]map[int64]Stood{}
	ends, offsets := map[int32]int64{}, map[int32]kgo.Offset{}
	for _, p := range w.cluster.PartitionInfos(topic) {
		r.Logs[topic][p.Partition] = map[int64]Stood{}
		if end := w.lastRecord(topic, p); end > p.LogStartOffset {
			ends[p.Partition], offsets[p.Partition] = end, kgo.NewOffset().AtStart()
		}
	}
	if len(ends) == 0 {
		return
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.addrs...), kgo.Dialer(w.net.dialer("reader")), kgo.DisableClientMetrics(),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: offsets}))
	must(err)
	defer cl.Close()
	limited, cancel := context.WithTimeout(w.ctx, time.Minute)
	defer cancel()
	for len(ends) > 0 && limited.Err() == nil {
		cl.PollFetches(limited).EachRecord(func(rec *kgo.Record) {
			r.Logs[topic][rec.Partition][rec.Offset] = Stood{recordOf(rec.Headers), rec.LeaderEpoch}
			if each != nil {
				each(rec)
			}
			if rec.Offset+1 >= ends[rec.Partition] {
				delete(ends, rec.Partition)
			}
		})
	}
}

// leftovers are the stacks of this bubble's goroutines that run kstage or its clients.
func leftovers() (stacks []string) {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	for _, s := range strings.Split(string(buf), "\n\n") {
		head, _, _ := strings.Cut(s, "\n")
		if strings.Contains(head, "synctest bubble") && !strings.Contains(s, "sim.leftovers") &&
			(strings.Contains(s, "kstage/kstage.") || strings.Contains(s, "franz-go/pkg/kgo")) {
			stacks = append(stacks, s)
		}
	}
	return stacks
}

func kilobytes(n int64) string { return strconv.FormatInt(n>>10, 10) + " KiB" }
