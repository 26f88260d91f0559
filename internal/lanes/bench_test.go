package lanes_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/kstage/kstage/internal/lanes"
	"github.com/kstage/kstage/internal/offsets"
)

// load is a batch of the benchmarks.
type load struct {
	done      *offsets.Batch
	n         int
	partition int
	back      chan<- *load // gets it when it is drained
}

// supply feeds partitions with batches, of which so many are in flight.
type supply struct {
	lanes    []*lanes.Partition[*load]
	trackers []offsets.Tracker
	free     chan *load
	next     int64
}

// keys of each of 6 partitions: about 1,000 in all.
const keys = 167

// mix is the finalizer of splitmix64.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func newSupply(partitions, batches, workers int, run func(b *load, i int) time.Duration) *supply {
	pool := lanes.New(workers, 1, lanes.Work[*load]{
		Run: run,
		Ended: func(b *load, from, end int) {
			if _, drained := b.done.End(from, end); drained {
				b.back <- b
			}
		},
		Key:     func(b *load, i int) (uint64, bool) { return mix(uint64(b.done.Offset(i))) % keys, true },
		Unwound: func(*load, int, any) time.Duration { return lanes.Never },
	})
	s := &supply{trackers: make([]offsets.Tracker, partitions), free: make(chan *load, batches)}
	for range partitions {
		s.lanes = append(s.lanes, pool.Partition(0))
	}
	for range batches {
		s.free <- &load{back: s.free}
	}
	return s
}

// send runs n records in batches of a size.
func (s *supply) send(n, size int) {
	for p := 0; n > 0; p = (p + 1) % len(s.lanes) {
		b := <-s.free
		s.trackers[b.partition].Mark()
		b.n, b.partition = min(n, size), p
		b.done = offsets.NewDense(s.next, b.n, 0)
		s.trackers[p].Add(b.done)
		s.lanes[p].Add(b, 0, b.n)
		s.next += int64(b.n)
		n -= b.n
	}
}

// drain waits for the batches in flight.
func (s *supply) drain() {
	all := make([]*load, cap(s.free))
	for i := range all {
		all[i] = <-s.free
	}
	for _, b := range all {
		s.free <- b
	}
}

func BenchmarkNoOp(b *testing.B) {
	for _, size := range []int{6000, 1000, 100} {
		b.Run(fmt.Sprintf("batches of %d", size), func(b *testing.B) {
			s := newSupply(6, 96, 16, func(*load, int) time.Duration { return 0 })
			b.ReportAllocs()
			b.ResetTimer()
			cpu := cpuTime(b)
			s.send(b.N, size)
			s.drain()
			b.ReportMetric(float64(cpuTime(b)-cpu)/float64(b.N), "cpu-ns/record")
		})
	}
}

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Keys whose records take 5 ms: 256 workers need 195 ms for 10,000 at best.
func BenchmarkSlow(b *testing.B) {
	const records, size, wait, workers = 10_000, 1000, 5 * time.Millisecond, 256
	s := newSupply(6, records/size, workers, func(*load, int) time.Duration { <-time.After(wait); return 0 })
	b.ReportAllocs()
	for b.Loop() {
		s.send(records, size)
		s.drain()
	}
	b.ReportMetric(float64(b.Elapsed())/float64(b.N)/float64(records*wait/workers), "of-ideal")
}
