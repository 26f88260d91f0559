package sim

import (
	"strings"

	"github.com/kstage/kstage"
)

// look writes down what members say of themselves: Health where it has changed, and
// partitions that hold more than they may.
func (w *world) look() {
	for _, m := range w.members {
		h := m.Health()
		if note := reasons(h); note != m.said {
			m.said = note
			w.history.add(Event{Kind: Unwell, Member: m.name, Group: m.group.Name, Note: note})
		}
		for _, p := range m.Stats().Partitions {
			if p.InFlight > m.group.mostRecords(p.Stage) || p.Bytes > m.group.mostBytes(p.Stage) {
				w.history.add(Event{Kind: Overfull, Member: m.name, Group: m.group.Name, Place: Place{p.Topic, p.Partition, p.Head}, Attempt: p.InFlight, Note: kilobytes(p.Bytes)})
			}
		}
	}
}

// reasons are those of Health, in words; empty: all is well.
func reasons(h kstage.Health) string {
	var b strings.Builder
	for _, r := range h.Reasons {
		r.Err = nil
		b.WriteString(r.String() + "; ")
	}
	return b.String()
}

const (
	leastRecord = 64 // bytes of a record in a fetch, about
	squeezed    = 4  // how much larger records may be when they are decompressed
	retryFetch  = 64 << 10
)

// fetched is how many bytes a partition's fetch may have.
func (g *GroupPlan) fetched(stage int) int64 {
	if stage > 0 {
		return retryFetch
	}
	return int64(g.FetchMax) + largestValue
}

// mostRecords is how many records may be held of a partition: a full window, and a fetch.
func (g *GroupPlan) mostRecords(stage int) int {
	return g.Window.Records + int(squeezed*g.fetched(stage)/leastRecord)
}

// mostBytes is the same in bytes; what waits counts twice.
func (g *GroupPlan) mostBytes(stage int) int64 {
	return 2 * (g.Window.Bytes + squeezed*g.fetched(stage))
}
