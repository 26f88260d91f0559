package lanes_test

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/kstage/kstage/internal/lanes"
)

// row is a batch of records that are names. The first letter of a name is the
// record's key; "-" is none.
type row struct{ names []string }

// rig is a pool, what its records shall do, and what became of them.
type rig struct {
	*lanes.Pool[*row]
	t *testing.T

	mu      sync.Mutex
	does    map[string]func() time.Duration
	answers map[string]func(v any) time.Duration
	started []string
	told    []string // of Ended
	unwound []string
}

// inBubble runs test with a rig whose time is virtual, then expects the pool to come to rest.
func inBubble(t *testing.T, workers, intakes int, test func(r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, does: map[string]func() time.Duration{}, answers: map[string]func(any) time.Duration{}}
		r.Pool = lanes.New(workers, intakes, lanes.Work[*row]{Run: r.run, Unwound: r.unwind, Ended: r.ended, Key: key})
		test(r)
		synctest.Wait()
		assert.True(t, closed(r.Done()), "a worker is left")
	})
}

func key(b *row, i int) (uint64, bool) {
	initial := b.names[i][0]
	return uint64(initial), initial != '-'
}

func (r *rig) run(b *row, i int) time.Duration {
	name := b.names[i]
	r.mu.Lock()
	r.started = append(r.started, name)
	do := r.does[name]
	r.mu.Unlock()
	if do == nil {
		return 0
	}
	return do()
}

func (r *rig) unwind(b *row, i int, v any) time.Duration {
	r.mu.Lock()
	r.unwound = append(r.unwound, b.names[i])
	answer := r.answers[b.names[i]]
	r.mu.Unlock()
	if answer == nil {
		return 0
	}
	return answer(v)
}

func (r *rig) ended(b *row, from, end int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told = append(r.told, b.names[from:end]...)
}

// on says what a record does when it runs.
func (r *rig) on(name string, do func() time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.does[name] = do
}

// block lets a record run until the returned func is called.
func (r *rig) block(names ...string) (release func()) {
	gate := make(chan struct{})
	for _, name := range names {
		r.on(name, func() time.Duration { <-gate; return 0 })
	}
	return sync.OnceFunc(func() { close(gate) })
}

// park lets a record wait that long each of n times before it ends.
func (r *rig) park(name string, wait time.Duration, n int) {
	r.on(name, func() time.Duration {
		if n--; n >= 0 {
			return wait
		}
		return 0
	})
}

// add queues a row of the names in a string, which it returns.
func add(q *lanes.Partition[*row], names string) *row {
	b := &row{strings.Fields(names)}
	q.Add(b, 0, len(b.names))
	return b
}

// rest lets everything happen that takes no time.
func (r *rig) rest() { synctest.Wait() }

// pass lets time go by.
func (r *rig) pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// starts returns the names of the records started, in that order.
func (r *rig) starts() string { return r.list(&r.started) }

// ends returns what Ended was told, sorted.
func (r *rig) ends() string {
	names := strings.Fields(r.list(&r.told))
	slices.Sort(names)
	return strings.Join(names, " ")
}

func (r *rig) list(names *[]string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(*names, " ")
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// fence fences partitions and expects them to be idle at once.
func (r *rig) fence(qs ...*lanes.Partition[*row]) {
	r.t.Helper()
	for _, q := range qs {
		assert.True(r.t, closed(q.Fence()), "a record runs")
	}
}

// slow is long enough for a walk to be cut.
const slow = 5 * time.Millisecond

// running lists the records in progress.
func (r *rig) running(qs ...*lanes.Partition[*row]) (names []string) {
	for _, q := range qs {
		q.Running(func(b *row, i int) { names = append(names, b.names[i]) })
	}
	return names
}
