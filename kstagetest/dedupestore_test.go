package kstagetest_test

import (
	"testing"
	"time"

	"github.com/kstage/kstage"
	"github.com/kstage/kstage/kstagetest"
)

// memory is a factory of stores that remember for ttl.
func memory(ttl time.Duration) func(*testing.T) kstage.DedupeStore {
	return func(*testing.T) kstage.DedupeStore { return kstage.NewMemoryDedupeStore(ttl, 10_000) }
}

func TestMemoryDedupeStoreInVirtualTime(t *testing.T) {
	t.Parallel()
	kstagetest.RunDedupeStoreTests(t, memory(24*time.Hour),
		kstagetest.DedupeVirtualTime(), kstagetest.DedupeTTL(time.Hour, memory(time.Hour)))
}

func TestMemoryDedupeStoreInRealTime(t *testing.T) {
	t.Parallel()
	kstagetest.RunDedupeStoreTests(t, memory(time.Hour), kstagetest.DedupeTTL(time.Second, memory(time.Second)),
		kstagetest.DedupeShortestLease(80*time.Millisecond), kstagetest.DedupeClockGranularity(5*time.Millisecond),
		kstagetest.DedupeOtherHandle(func(_ *testing.T, s kstage.DedupeStore) kstage.DedupeStore { return s }))
}
