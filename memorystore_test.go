package kstage_test

import (
	"context"
	"fmt"
	"math"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kstage/kstage"
)

// ids is a memory store and what a test asks of it.
type ids struct {
	*kstage.MemoryDedupeStore
	t require.TestingT
}

func newIDs(t require.TestingT, ttl time.Duration, maxIDs int) *ids {
	return &ids{kstage.NewMemoryDedupeStore(ttl, maxIDs), t}
}

func background() context.Context { return context.Background() } //nolint:forbidigo // rapid's T has none

func (s *ids) state(key string) kstage.ClaimState {
	c, err := s.Claim(background(), key, time.Minute)
	require.NoError(s.t, err)
	return c.State
}

func (s *ids) take(key string, lease time.Duration) kstage.Claim {
	c, err := s.Claim(background(), key, lease)
	require.NoError(s.t, err)
	require.Equal(s.t, kstage.ClaimNew, c.State, key)
	return c
}

func (s *ids) finish(keys ...string) {
	for _, key := range keys {
		require.NoError(s.t, s.Confirm(background(), s.take(key, time.Minute)))
	}
}

func TestMemoryStoreRefusesToRememberNothing(t *testing.T) {
	t.Parallel()
	for _, ttl := range []time.Duration{0, -1, time.Hour} {
		for _, n := range []int{0, -1, math.MinInt, 1<<32 + 1, math.MaxInt} {
			require.PanicsWithValue(t, fmt.Sprintf("kstage: NewMemoryDedupeStore(%v, %d): ttl must be positive, maxIDs between 1 and 2^32", ttl, n),
				func() { kstage.NewMemoryDedupeStore(ttl, n) })
		}
	}
	require.Panics(t, func() { kstage.NewMemoryDedupeStore(0, 1) })
	require.NotPanics(t, func() { kstage.NewMemoryDedupeStore(1, 1) })
	require.NotPanics(t, func() { kstage.NewMemoryDedupeStore(math.MaxInt64, 1<<32) })
}

func TestMemoryStoreSharesItsBound(t *testing.T) {
	t.Parallel()
	for n, shards := range map[int]int{
		1: 1, 10: 1, 8191: 1, 8192: 2, 8193: 2, 16_384: 4, 100_000: 16, 262_143: 32, 262_144: 64, 1_000_000: 64, 1 << 32: 64,
	} {
		sum, limits := 0, kstage.NewMemoryDedupeStore(time.Hour, n).Limits()
		for _, l := range limits {
			require.Positive(t, l, n)
			sum += l
		}
		require.Equal(t, n, sum)
		require.Len(t, limits, shards, n)
	}
}

// What is done longest goes first; asking makes nothing younger.
func TestMemoryStoreForgetsTheOldestDone(t *testing.T) {
	t.Parallel()
	s := newIDs(t, time.Hour, 4)
	s.finish("a", "b", "c", "d")
	require.Equal(t, kstage.ClaimDone, s.state("a"))
	require.Zero(t, s.Evicted())
	s.finish("e")
	require.EqualValues(t, 1, s.Evicted())
	s.finish("f")
	require.EqualValues(t, 2, s.Evicted())
	for _, key := range []string{"f", "e", "d", "c"} {
		require.Equal(t, kstage.ClaimDone, s.state(key), key)
	}
	require.Equal(t, kstage.ClaimNew, s.state("a"))
	require.EqualValues(t, 3, s.Evicted())
}

// The order is that of the Confirms, whichever claim came first.
func TestMemoryStoreAgesFromTheConfirm(t *testing.T) {
	t.Parallel()
	s := newIDs(t, time.Hour, 3)
	first := s.take("first claimed", time.Minute)
	s.finish("done")
	require.NoError(t, s.Confirm(background(), first))
	require.NoError(t, s.Confirm(background(), first)) // again, without effect
	s.finish("new", "newer")
	require.Equal(t, kstage.ClaimDone, s.state("first claimed"))
	require.EqualValues(t, 1, s.Evicted())
}

func TestMemoryStoreForgetsWhatIsOverFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newIDs(t, time.Hour, 4)
		s.finish("a", "b")
		after(50 * time.Minute)
		s.finish("c")
		s.take("lapsed", time.Minute)
		after(10 * time.Minute) // a and b are over, and so is the lease
		s.finish("d", "e", "f")
		require.Zero(t, s.Evicted())
		for _, key := range []string{"c", "d", "e", "f"} {
			require.Equal(t, kstage.ClaimDone, s.state(key), key)
		}
	})
}

// A live claim is never put out: what is full of them takes no more, and says so.
func TestMemoryStoreKeepsLiveClaims(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newIDs(t, time.Hour, 3)
		s.finish("done")
		late := s.take("late", time.Second)
		after(time.Second)
		a, b := s.take("a", time.Minute), s.take("b", time.Minute)
		s.take("c", 2*time.Minute)
		require.EqualValues(t, 1, s.Evicted())

		_, err := s.Claim(t.Context(), "d", time.Minute)
		require.ErrorContains(t, err, "raise maxIDs")
		require.NotErrorIs(t, err, kstage.ErrClaimLost)
		for _, call := range []error{s.Confirm(t.Context(), late), s.Extend(t.Context(), late, time.Minute)} {
			require.ErrorContains(t, call, "raise maxIDs")
			require.NotErrorIs(t, call, kstage.ErrClaimLost)
		}
		require.NoError(t, s.Release(t.Context(), late))
		for _, key := range []string{"a", "b", "c"} {
			require.Equal(t, kstage.ClaimInProgress, s.state(key), key)
		}

		require.NoError(t, s.Release(t.Context(), a))
		s.take("d", time.Minute)
		require.NoError(t, s.Confirm(t.Context(), b))
		require.NoError(t, s.Confirm(t.Context(), late)) // b has to go
		require.EqualValues(t, 2, s.Evicted())
		require.Equal(t, kstage.ClaimDone, s.state("late"))
		s.take("e", time.Minute)
		after(time.Minute)
		s.take("f", time.Minute) // d's lease has ended, c's has not
		require.Equal(t, kstage.ClaimInProgress, s.state("c"))
	})
}

func TestMemoryStoreTimesAreExact(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newIDs(t, time.Hour, 10)
		start := time.Now()
		c := s.take("k", time.Second)
		require.True(t, c.Until.Equal(start.Add(time.Second)))
		after(time.Second - 1)
		require.Equal(t, kstage.ClaimInProgress, s.state("k"))
		after(1)
		d := s.take("k", time.Second)
		require.NoError(t, s.Confirm(t.Context(), d))
		e, err := s.Claim(t.Context(), "k", time.Minute)
		require.NoError(t, err)
		require.True(t, e.Until.Equal(start.Add(time.Second+time.Hour)))
		after(time.Hour - 1)
		require.Equal(t, kstage.ClaimDone, s.state("k"))
		after(1)
		require.Equal(t, kstage.ClaimNew, s.state("k"))
	})
}

// The sum of now and a long time must not be in the past.
func TestMemoryStoreRemembersForEver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newIDs(t, math.MaxInt64, 10)
		after(time.Hour)
		held := s.take("held", math.MaxInt64)
		require.True(t, held.Until.After(time.Now().AddDate(200, 0, 0)))
		s.finish("done")
		require.NoError(t, s.Extend(t.Context(), held, math.MaxInt64))
		after(24 * time.Hour)
		require.Equal(t, kstage.ClaimInProgress, s.state("held"))
		require.Equal(t, kstage.ClaimDone, s.state("done"))
	})
}

// Twenty times as many as there is room for: the last ones are remembered.
func TestMemoryStoreRemembersTheLast(t *testing.T) {
	t.Parallel()
	s := newIDs(t, time.Hour, 10_000)
	for i := range 200_000 {
		s.finish(fmt.Sprint("id ", i))
	}
	n, err := s.Check()
	require.NoError(t, err)
	require.Equal(t, 10_000, n)
	require.EqualValues(t, 190_000, s.Evicted())
	for i := 191_000; i < 200_000; i++ { // shards are a little uneven
		require.Equal(t, kstage.ClaimDone, s.state(fmt.Sprint("id ", i)))
	}
}

// Many goroutines, few ids, little room: the table is sound after it, and a done id
// had a Confirm.
func TestMemoryStoreUnderManyGoroutines(t *testing.T) {
	t.Parallel()
	s := newIDs(t, time.Millisecond, 9_000)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 4_000 {
				key := fmt.Sprint(i * (g%2 + 1) % 12_000)
				c, err := s.Claim(t.Context(), key, time.Duration(1+i%3)*100*time.Microsecond)
				if err != nil || c.State != kstage.ClaimNew {
					continue
				}
				switch i % 4 {
				case 0:
					_ = s.Release(t.Context(), c)
				case 1:
					_ = s.Extend(t.Context(), c, time.Millisecond)
				default:
					_ = s.Confirm(t.Context(), c)
				}
			}
		})
	}
	wg.Wait()
	_, err := s.Check()
	require.NoError(t, err)
}

func TestMemoryStoreAllocatesNothing(t *testing.T) { //nolint:paralleltest // counts allocations
	s := newIDs(t, time.Hour, 1000)
	for i := range 1000 {
		s.finish(fmt.Sprint(i))
	}
	keys, next := make([]string, 0, 200), 0
	for i := range cap(keys) {
		keys = append(keys, fmt.Sprint("new ", i))
	}
	require.Zero(t, testing.AllocsPerRun(100, func() {
		c, err := s.Claim(background(), keys[next], time.Minute)
		if err != nil || s.Extend(background(), c, time.Minute) != nil || s.Confirm(background(), c) != nil {
			t.Error("not confirmed")
		}
		next++
	}))
}

// The garbage collector must have nothing to look at in a million ids.
func TestIDsHoldNoPointers(t *testing.T) {
	t.Parallel()
	var pointers func(reflect.Type) bool
	pointers = func(typ reflect.Type) bool {
		if typ.Kind() != reflect.Struct {
			return typ.Kind() < reflect.Bool || typ.Kind() > reflect.Complex128
		}
		for i := range typ.NumField() {
			if pointers(typ.Field(i).Type) {
				return true
			}
		}
		return false
	}
	require.True(t, pointers(reflect.TypeFor[struct{ s string }]()))
	require.False(t, pointers(reflect.TypeFor[kstage.IDSlot]()))
	require.False(t, pointers(reflect.TypeFor[kstage.IDCell]()))
	require.EqualValues(t, 48, kstage.IDSlotSize)
	require.EqualValues(t, 128, kstage.MemoryShardSize, "two cache lines")
}

// A key is all of its bytes, and nothing but them.
func FuzzMemoryStoreKeys(f *testing.F) {
	for _, pair := range [][2]string{{"", "\x00"}, {"a", "a\x00"}, {"a", "a"}, {"\xff", "\ufffd"}, {"1234567", "12345678"}} {
		f.Add(pair[0], pair[1])
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		s := newIDs(t, time.Hour, 100)
		s.finish(a)
		want := kstage.ClaimNew
		if a == b {
			want = kstage.ClaimDone
		}
		require.Equal(t, want, s.state(b))
		require.Equal(t, kstage.ClaimDone, s.state(a))
	})
}
