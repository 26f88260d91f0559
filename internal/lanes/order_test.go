package lanes_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// plan is what a world is made of.
type plan struct {
	workers, intakes, parts, keys, fetches int
	mood                                   mood
	order                                  func(r *record) (string, bool)
	fenceAt                                []int // by partition: before this fetch; -1: never
	rng                                    *rand.Rand
}

// mood is how often, in a thousand, records do what.
type mood struct {
	size, yields, slow, parks, leaves, dies int
}

func drawPlan(t *rapid.T) *plan {
	p := &plan{
		workers: rapid.IntRange(1, 12).Draw(t, "workers"),
		intakes: rapid.IntRange(1, 2).Draw(t, "intakes"),
		parts:   rapid.IntRange(1, 3).Draw(t, "partitions"),
		keys:    rapid.IntRange(1, 20).Draw(t, "keys"),
		fetches: rapid.IntRange(1, 30).Draw(t, "fetches"),
	}
	moods := map[string]mood{
		"quick": {300, 10, 0, 0, 0, 0},
		"fair":  {150, 100, 5, 5, 5, 5},
		"rough": {30, 200, 100, 150, 150, 100},
	}
	orders := map[string]func(r *record) (string, bool){
		"by key":       func(r *record) (string, bool) { return r.key, r.key != "" },
		"by partition": func(*record) (string, bool) { return "", true },
		"none":         func(*record) (string, bool) { return "", false },
	}
	p.mood = moods[rapid.SampledFrom([]string{"quick", "fair", "rough"}).Draw(t, "mood")]
	p.order = orders[rapid.SampledFrom([]string{"by key", "by key", "by key", "by partition", "none"}).Draw(t, "order")]
	p.fenceAt = rapid.SliceOfN(rapid.IntRange(-p.fetches, p.fetches-1), p.parts, p.parts).Draw(t, "fence at")
	p.rng = rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
	return p
}

func (p *plan) chance(perMille int) bool { return p.rng.IntN(1000) < perMille }

// records makes what a fetch brings: offsets have gaps, some records no key.
func (p *plan) records(to *part) []*record {
	rs := make([]*record, 1+p.rng.IntN(p.mood.size))
	for i := range rs {
		if p.chance(50) {
			to.next += p.rng.Int64N(4)
		}
		rs[i] = &record{offset: to.next, state: fresh, deed: p.deed()}
		to.next++
		if !p.chance(60) {
			rs[i].key = fmt.Sprintf("k%d", p.rng.IntN(p.keys))
		}
	}
	return rs
}

func (p *plan) deed() deed {
	d := deed{wait: time.Duration(p.rng.IntN(700)) * time.Microsecond, leaves: p.chance(p.mood.leaves), releases: p.chance(500)}
	switch {
	case p.chance(p.mood.slow):
		d.pace = slowly
	case p.chance(p.mood.yields):
		d.pace = yielding
	}
	if p.chance(p.mood.parks) {
		d.parks, d.wait = 1+p.rng.IntN(3), d.wait+1
	}
	if p.chance(p.mood.dies) {
		d.death = []death{panics, panicsNil, exits, exitsInFear}[p.rng.IntN(4)]
	}
	return d
}

// Whatever records do: those of a key run in order and one at a time, each as
// often as it asks to, and nothing is committed before it is finished.
func TestOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := drawPlan(t)
		w := newWorld(p.workers, p.intakes, p.parts, p.order)
		quit, stopped := make(chan struct{}), make(chan struct{})
		rng := rand.New(rand.NewPCG(p.rng.Uint64(), 0))
		go func() { defer close(stopped); w.watch(quit, rng) }()
		p.feed(w)
		w.await(10 * time.Second)
		close(quit)
		<-stopped
		for _, f := range w.faults {
			t.Error(f)
		}
	})
}

// feed lets the plan happen.
func (p *plan) feed(w *world) {
	for n := range p.fetches {
		for i, at := range p.fenceAt {
			if at == n {
				p.fence(w.parts[i])
			}
		}
		p.fetch(w.parts[p.rng.IntN(p.parts)])
		if p.chance(250) {
			p.pause()
		}
	}
}

func (p *plan) fetch(to *part) { to.receive(p.records(to)) }

// fence gives a partition something to do, then fences it.
func (p *plan) fence(at *part) {
	at.fencing.Store(p.chance(500))
	for range p.rng.IntN(5) {
		p.fetch(at)
	}
	if p.chance(300) {
		p.pause()
	}
	at.fencing.Store(true)
	at.fence()
}

func (p *plan) pause() { <-time.After(time.Duration(p.rng.IntN(1500)) * time.Microsecond) }

// watch looks at everything again and again, drops records and ticks.
func (w *world) watch(quit <-chan struct{}, rng *rand.Rand) {
	for {
		select {
		case <-quit:
			return
		case <-time.After(time.Duration(rng.IntN(200)) * time.Microsecond):
		}
		for _, p := range w.parts {
			p.check()
			p.dropSome(rng)
		}
		if w.inProgress(); rng.IntN(2) == 0 {
			w.Look()
		}
	}
}

func (p *part) dropSome(rng *rand.Rand) {
	p.mu.Lock()
	rs := p.records[p.verified:]
	p.mu.Unlock()
	for range min(len(rs), 2) {
		p.drop(rs[rng.IntN(len(rs))])
	}
}

// await expects everything to finish, but on fenced partitions, and nothing to be left then.
func (w *world) await(limit time.Duration) {
	late := time.After(limit)
	for _, p := range w.parts {
		for p.survivors == nil && !p.check() {
			select {
			case <-late:
				w.fault("not everything finishes: mark %v of %d", p.mark, p.next)
				return
			case <-time.After(200 * time.Microsecond):
			}
		}
	}
	for _, p := range w.parts {
		if p.survivors == nil {
			p.audit()
		}
		p.lane.Fence()
	}
	w.atRest(late)
}

// atRest expects idle partitions, no worker and nothing open.
func (w *world) atRest(late <-chan time.Time) {
	for _, p := range w.parts {
		select {
		case <-p.lane.Fence():
			p.audit()
		case <-late:
			w.fault("a partition is not idle")
			return
		}
	}
	select {
	case <-w.Done():
	case <-late:
		w.fault("a worker is left")
	}
	w.open.Wait()
}
