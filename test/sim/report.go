package sim

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Report tells of a run that has broken rules: its seed, what went wrong in it, and
// what happened before the first violation.
func Report(seed uint64, r *Run, vs []Violation, last int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d (%s) has broken rules, replay with: make replay SEED=%d\n", seed, r.Plan.Protocol, seed)
	const most = 10
	for i, v := range vs {
		if i == most && last >= 0 {
			fmt.Fprintf(&b, "  and %d more\n", len(vs)-most)
			break
		}
		fmt.Fprintf(&b, "  %v\n", v)
	}
	fmt.Fprintf(&b, "%d brokers, topics %v\n", r.Plan.Brokers, r.Plan.Topics)
	for _, g := range r.Plan.Groups {
		fmt.Fprintf(&b, "group %+v\n", g)
	}
	fmt.Fprintf(&b, "faults:\n  %s\nevents:\n", strings.Join(r.Script, "\n  "))
	es := r.History.Events()
	if last >= 0 && len(vs) > 0 {
		end, found := slices.BinarySearchFunc(es, vs[0].At, func(e Event, at time.Duration) int { return int(e.At - at) })
		for ; found && end < len(es) && es[end].At == vs[0].At; end++ {
		}
		es = es[max(0, end-last):end]
	}
	for _, e := range es {
		fmt.Fprintf(&b, "%v\n", e)
	}
	return b.String()
}

// Facts counts what has happened in a run.
func Facts(r *Run) map[string]int {
	facts := map[string]int{"events": len(r.History.Events()), "faults": len(r.Script)}
	handled := map[[2]string]int{}
	for _, e := range r.History.Events() {
		switch e.Kind {
		case Published, Started, CopyAcked, CopyFailed, Commit, Crashed, Began:
			facts[e.Kind]++
		case Given:
			facts[e.Note]++
		case Ended:
			if e.Result == OK && !r.Plan.groupOf(e.Group).Dedupe {
				handled[[2]string{e.Group, e.Record}]++
			}
		}
	}
	for _, n := range handled {
		facts["duplicates without dedupe"] += n - 1
	}
	facts["virtual seconds to quiet"] = int(r.Quiet.Seconds())
	return facts
}

// PerWorld shows counts by world.
func PerWorld(facts map[string]int, worlds int) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(facts)) {
		parts = append(parts, fmt.Sprintf("%s %.1f", k, float64(facts[k])/float64(max(1, worlds))))
	}
	return strings.Join(parts, ", ")
}
