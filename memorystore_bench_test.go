package kstage_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/kstage/kstage"
)

// benchKey is a key as the library makes them, 58 bytes, whose last 8 are a number.
// It is written anew for each claim, as a consumer does: hot memory, no allocation.
type benchKey []byte

func newBenchKey() benchKey {
	return benchKey("billing\x00billing-retry\x000190a6c2-9d3f-7b12-8c55-3e01........")
}

// of is valid until the next call: the store keeps no key.
func (k benchKey) of(n uint64) string {
	binary.LittleEndian.PutUint64(k[len(k)-8:], n)
	return unsafe.String(&k[0], len(k))
}

func claimConfirm(ctx context.Context, b *testing.B, s kstage.DedupeStore, key string) { //nolint:thelper // b.Helper costs more than a claim
	c, err := s.Claim(ctx, key, 15*time.Second)
	if err == nil && c.State == kstage.ClaimNew {
		err = s.Confirm(ctx, c)
	}
	if err != nil {
		b.Fatal(err)
	}
}

// filled is a store that has the ids 0 to n-1 and room for limit.
func filled(b *testing.B, n, limit int) *kstage.MemoryDedupeStore {
	b.Helper()
	s := kstage.NewMemoryDedupeStore(time.Hour, limit)
	key := newBenchKey()
	for i := range n {
		claimConfirm(b.Context(), b, s, key.of(uint64(i)))
	}
	runtime.GC()
	return s
}

// measured starts a measurement and returns what ends it. The processor's time is
// what counts on a machine that others use.
func measured(b *testing.B) func() {
	b.Helper()
	b.ReportAllocs()
	before := cpuTime()
	b.ResetTimer()
	return func() { b.ReportMetric(float64(cpuTime()-before)/float64(b.N), "cpu-ns/op") }
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// New ids into a full store, each claimed and confirmed: the worst there is, since
// each puts out the oldest.
func BenchmarkMemoryDedupeStore(b *testing.B) {
	for _, ids := range []int{100_000, 1_000_000} {
		b.Run(fmt.Sprintf("ids=%d", ids), func(b *testing.B) {
			s, key, ctx := filled(b, ids, ids), newBenchKey(), b.Context()
			defer measured(b)()
			for i := range b.N {
				claimConfirm(ctx, b, s, key.of(uint64(ids+i)))
			}
		})
	}
}

// Duplicates of all ids there are: Claim alone.
func BenchmarkMemoryDedupeStoreDuplicates(b *testing.B) {
	for _, ids := range []int{100_000, 1_000_000} {
		b.Run(fmt.Sprintf("ids=%d", ids), func(b *testing.B) {
			s, key, ctx := filled(b, ids, ids+ids/10), newBenchKey(), b.Context()
			defer measured(b)()
			for i := range b.N {
				claimConfirm(ctx, b, s, key.of(uint64(i%ids)))
			}
		})
	}
}

// The first, on all processors.
func BenchmarkMemoryDedupeStoreParallel(b *testing.B) {
	for _, ids := range []int{100_000, 1_000_000} {
		b.Run(fmt.Sprintf("ids=%d", ids), func(b *testing.B) {
			s, ctx := filled(b, ids, ids), b.Context()
			var workers atomic.Uint64
			defer measured(b)()
			b.RunParallel(func(pb *testing.PB) {
				key := newBenchKey()
				for n := workers.Add(1) << 40; pb.Next(); n++ {
					claimConfirm(ctx, b, s, key.of(n))
				}
			})
		})
	}
}
