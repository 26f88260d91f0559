package kstage

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"sync"
	"time"

	"github.com/kstage/kstage/internal/siphash"
)

// MemoryDedupeStore is a DedupeStore in this process' memory. It is best effort:
// it forgets everything at a restart, and knows nothing of what other processes
// have handled, so that after a rebalance the new owner of a partition starts
// with nothing. What it forgot is handled twice, never lost. For more, share a
// store between the processes.
//
// It remembers a done key for its ttl, and at most so many keys, done and held
// together. Where it needs room it forgets in this order: what is over (forgotten
// anyway), then the key that was done longest ago, which Evicted counts. It never
// puts out a live claim: when the memory is full of those, Claim fails, and the
// record waits.
//
// Keys are kept as 128 bits of a hash whose secret is drawn for each store, so
// that memory does not depend on their length: about 65 bytes a key at maxIDs, up
// to twice that on the way there. It grows with the number of keys and is not given
// back. All methods are safe for concurrent use; it starts no goroutine, does no
// I/O, and goes by the monotonic clock.
type MemoryDedupeStore struct {
	start  time.Time // times are kept as what has passed since then
	ttl    time.Duration
	secret siphash.Key
	shift  int // of a hash's upper half: what remains is the number of its shard
	shards []memoryShard
}

var _ DedupeStore = (*MemoryDedupeStore)(nil)

// memoryShard is the part of a store that has its share of the keys.
type memoryShard struct {
	mu     sync.Mutex // guards everything below; held for memory alone, never for I/O
	ids    idTable
	tokens uint64   // drawn so far
	_      [32]byte // two cache lines: shards do not slow each other down
}

const (
	maxShards   = 64
	shardMinIDs = 4096 // a shard's share of the keys is uneven by the root of their number: a few percent
)

// NewMemoryDedupeStore makes a store that remembers a done key for ttl, and at
// most maxIDs keys. A store of many keys is divided, by their hashes, into parts
// of at least 4,096; a part may be full when a few percent of maxIDs are still
// free elsewhere. For each id a second, maxIDs should be above ttl in seconds:
// watch Evicted.
//
// It panics when ttl is not positive, or maxIDs is not between 1 and 2^32: a store
// that remembers nothing would be no store, and nobody would see it.
func NewMemoryDedupeStore(ttl time.Duration, maxIDs int) *MemoryDedupeStore {
	if ttl <= 0 || maxIDs < 1 || int64(maxIDs) > 1<<32 {
		panic(fmt.Sprintf("kstage: NewMemoryDedupeStore(%v, %d): ttl must be positive, maxIDs between 1 and 2^32", ttl, maxIDs))
	}
	n := shardsFor(maxIDs)
	s := &MemoryDedupeStore{
		start: time.Now(), ttl: ttl, secret: siphash.NewKey(),
		shift: 64 - bits.TrailingZeros(uint(n)), shards: make([]memoryShard, n),
	}
	for i := range s.shards {
		s.shards[i].ids = newIDTable((maxIDs + i) / n) // they sum up to maxIDs
	}
	return s
}

// shardsFor is a power of two.
func shardsFor(maxIDs int) int {
	n := 1
	for n < maxShards && maxIDs/(2*n) >= shardMinIDs {
		n *= 2
	}
	return n
}

var (
	errLease = errors.New("kstage: a lease must be positive")
	errFull  = errors.New("kstage: the memory dedupe store is full of claims in progress: raise maxIDs")
)

// Claim implements DedupeStore. It fails when ctx has ended, when lease is not
// positive, and when the store is full of live claims.
func (s *MemoryDedupeStore) Claim(ctx context.Context, key string, lease time.Duration) (Claim, error) {
	if err := usable(ctx, lease); err != nil {
		return Claim{}, err
	}
	id := s.secret.Sum(key)
	sh := s.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	now := s.now()
	i := sh.ids.find(id)
	if i != 0 && sh.ids.slots[i].until > now {
		return s.taken(key, &sh.ids.slots[i]), nil
	}
	until, token := later(now, lease), sh.tokens+1
	if !sh.put(i, id, token, claimed, until, now) {
		return Claim{}, errFull
	}
	sh.tokens = token
	return Claim{Key: key, State: ClaimNew, Token: token, Until: s.start.Add(until)}, nil
}

// Extend implements DedupeStore. It fails as Claim does; full is the store only to
// a claim whose lease ran out.
func (s *MemoryDedupeStore) Extend(ctx context.Context, c Claim, lease time.Duration) error {
	if err := usable(ctx, lease); err != nil {
		return err
	}
	return s.settle(c, claimed, lease)
}

// Confirm implements DedupeStore. It fails when ctx has ended, and as Extend when
// the store is full.
func (s *MemoryDedupeStore) Confirm(ctx context.Context, c Claim) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.settle(c, done, s.ttl)
}

// Release implements DedupeStore. It fails when ctx has ended.
func (s *MemoryDedupeStore) Release(ctx context.Context, c Claim) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	id := s.secret.Sum(c.Key)
	sh := s.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	i := sh.ids.find(id)
	over, err := sh.mine(i, c, s.now())
	if err == nil && !over && i != 0 {
		sh.ids.drop(i)
	}
	return err
}

// Evicted counts the done keys that were forgotten before their ttl was over,
// because their place was needed: maxIDs is too small for the ttl.
func (s *MemoryDedupeStore) Evicted() (n uint64) {
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		n += sh.ids.evicted
		sh.mu.Unlock()
	}
	return n
}

func usable(ctx context.Context, lease time.Duration) error {
	if lease <= 0 {
		return errLease
	}
	return ctx.Err()
}

func (s *MemoryDedupeStore) shard(id siphash.Sum) *memoryShard { return &s.shards[id.Hi>>s.shift] }

// now is read under a shard's lock: the order of its times is that of its calls.
func (s *MemoryDedupeStore) now() time.Duration { return time.Since(s.start) }

// taken answers a Claim of a key that is held or done.
func (s *MemoryDedupeStore) taken(key string, slot *idSlot) Claim {
	c := Claim{Key: key, State: ClaimInProgress, Until: s.start.Add(slot.until)}
	if slot.queue == done {
		c.State = ClaimDone
	}
	return c
}

// settle makes c's key held or done for d, where c may.
func (s *MemoryDedupeStore) settle(c Claim, queue uint32, d time.Duration) error {
	id := s.secret.Sum(c.Key)
	sh := s.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	now := s.now()
	i := sh.ids.find(id)
	if over, err := sh.mine(i, c, now); over || err != nil {
		return err
	}
	if !sh.put(i, id, c.Token, queue, later(now, d), now) {
		return errFull
	}
	return nil
}

// mine says whether c may change its key, which is in slot i (0: in none); over,
// that c was confirmed, and nothing is to change any more.
func (sh *memoryShard) mine(i uint32, c Claim, now time.Duration) (over bool, err error) {
	slot := &sh.ids.slots[i]
	switch {
	case !c.granted():
		return false, ErrClaimLost
	case i == 0 || slot.until <= now:
		return false, nil
	case slot.token != c.Token:
		return false, ErrClaimLost
	}
	return slot.queue == done, nil
}

// put writes what holds of an id from now on: in slot i, or a new one where i is 0.
// False: there is no room.
func (sh *memoryShard) put(i uint32, id siphash.Sum, token uint64, queue uint32, until, now time.Duration) bool {
	if i != 0 {
		sh.ids.unqueue(i)
	} else if i = sh.ids.add(id, now); i == 0 {
		return false
	}
	sh.ids.slots[i].token = token
	sh.ids.enqueue(queue, i, until)
	return true
}

// later adds, and stops at the end of time.
func later(now, d time.Duration) time.Duration {
	if d > math.MaxInt64-now {
		return math.MaxInt64
	}
	return now + d
}
