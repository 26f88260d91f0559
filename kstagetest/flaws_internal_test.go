package kstagetest

import (
	"context"
	"crypto/md5"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"math/bits"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kstage/kstage"
)

// recorder is a tb that notes what went wrong.
type recorder struct {
	ctx context.Context

	mu       sync.Mutex // guards failures
	failures []string
}

func (r *recorder) Helper()                  {}
func (r *recorder) Context() context.Context { return r.ctx }

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

// failing runs all checks on stores with one flaw, in virtual time, and returns what
// each has said. A check runs on a goroutine of its own, since a failure ends it.
func failing(t *testing.T, flaw string) map[string][]string {
	t.Helper()
	s := newDedupeSuite([]DedupeStoreTestOption{DedupeVirtualTime(), DedupeTTL(time.Hour, nil)})
	said := map[string][]string{}
	for _, c := range dedupeChecks() {
		synctest.Test(t, func(t *testing.T) {
			ttl := 24 * time.Hour
			if c.forgets {
				ttl = s.ttl
			}
			r := &recorder{ctx: t.Context()}
			store := newPlainStore(flaw, ttl)
			handle := func(kstage.DedupeStore) kstage.DedupeStore { return store.handle() }
			ended := make(chan struct{}) // closed by the check's goroutine
			go func() {
				defer close(ended)
				c.run(s.probe(r, store, handle))
			}()
			<-ended
			if len(r.failures) > 0 {
				said[c.name] = r.failures
			}
		})
	}
	return said
}

func TestNoCheckFailsWithoutAFlaw(t *testing.T) {
	t.Parallel()
	require.Empty(t, failing(t, ""))
}

// The checks have teeth: each flaw is seen by the check whose rule it breaks.
func TestEachFlawIsSeen(t *testing.T) {
	t.Parallel()
	for flaw, check := range flaws {
		t.Run(flaw, func(t *testing.T) {
			t.Parallel()
			said := failing(t, flaw)
			require.Contains(t, said, check)
			t.Logf("%d checks failed; %s: %s", len(said), check, said[check][0])
		})
	}
}

// No check is there for nothing.
func TestEachCheckSeesAFlaw(t *testing.T) {
	t.Parallel()
	sees := map[string]bool{}
	for _, check := range flaws {
		sees[check] = true
	}
	for _, c := range dedupeChecks() {
		require.True(t, sees[c.name], c.name)
	}
}

// flaws by the check that must see each.
var flaws = map[string]string{
	"in progress and done are the same":                    "FirstClaimIsNewTheNextInProgress",
	"the last who asks gets the key":                       "FirstClaimIsNewTheNextInProgress",
	"Until is missing":                                     "FirstClaimIsNewTheNextInProgress",
	"the key is missing":                                   "FirstClaimIsNewTheNextInProgress",
	"the token is missing":                                 "FirstClaimIsNewTheNextInProgress",
	"who asks gets the token":                              "FirstClaimIsNewTheNextInProgress",
	"each process has its own keys":                        "FirstClaimIsNewTheNextInProgress",
	"asking takes the holder's claim away":                 "AskingChangesNothingForTheHolder",
	"asking prolongs the lease":                            "LeaseEnds",
	"Confirm forgets the key":                              "ConfirmedKeyIsDone",
	"done is told as in progress":                          "ConfirmedKeyIsDone",
	"Release does nothing":                                 "ReleasedKeyIsFree",
	"a lost Release succeeds":                              "ReleasedKeyIsFree",
	"Release forgets a done key":                           "DoneStaysDoneWhateverItsClaimDoes",
	"Extend makes a done key held":                         "DoneStaysDoneWhateverItsClaimDoes",
	"Confirm cannot be repeated":                           "CallsMayBeRepeated",
	"Release cannot be repeated":                           "CallsMayBeRepeated",
	"one token for all":                                    "TokensTellClaimsApart",
	"tokens pass through 53 bits":                          "AnotherTokenHasNoEffect",
	"tokens pass through 32 bits":                          "AnotherTokenHasNoEffect",
	"tokens are not compared":                              "AnotherTokenHasNoEffect",
	"any claim will do":                                    "WhatWasNotGrantedHasNoEffect",
	"any lease will do":                                    "LeaseMustBePositive",
	"contexts are ignored":                                 "EndedContextFails",
	"a failure is a lost claim":                            "EndedContextFails",
	"a failed Claim is done":                               "EndedContextFails",
	"leases are a third too short":                         "LeaseIsNotCutShort",
	"leases are rounded down to 10 s":                      "LeaseIsNotCutShort",
	"leases never end":                                     "LeaseEnds",
	"leases are twice too long":                            "LeaseEnds",
	"Extend does nothing":                                  "ExtendProlongsTheLease",
	"Extend adds":                                          "ExtendSetsTheEndAndDoesNotAdd",
	"Extend never shortens":                                "ExtendSetsTheEndAndDoesNotAdd",
	"done ends with the lease":                             "DoneOutlivesTheLease",
	"a late Extend fails":                                  "LateHolderKeepsWhatNobodyTook",
	"a late Confirm fails":                                 "LateHolderKeepsWhatNobodyTook",
	"a late Release fails":                                 "LateHolderKeepsWhatNobodyTook",
	"a lost Extend succeeds":                               "LateHolderOfATakenKeyHasLostIt",
	"a lost Confirm succeeds":                              "LateHolderOfATakenKeyHasLostIt",
	"a key that is free is lost":                           "LateHolderGetsBackWhatTheOtherLeft",
	"done is never forgotten":                              "DoneIsRememberedForItsTime",
	"done is forgotten too early":                          "DoneIsRememberedForItsTime",
	"asking prolongs what is remembered":                   "DoneIsRememberedForItsTime",
	"what is remembered counts from the claim":             "DoneIsRememberedForItsTime",
	"confirming again prolongs what is remembered":         "DoneIsRememberedForItsTime",
	"Extend makes a done key's memory as short as a lease": "DoneOutlivesTheLease",
	"keys end at NUL":                                      "KeysAreBytes",
	"a NUL panics":                                         "KeysAreBytes",
	"keys are lower case":                                  "KeysAreBytes",
	"keys are trimmed":                                     "KeysAreBytes",
	"keys become UTF-8":                                    "KeysAreBytes",
	"keys are cut at 255 bytes":                            "KeysMayBeLong",
	"keys are hashed to 64 bits":                           "KeysOfOneHashAreTwo",
	"keys are hashed to 32 bits":                           "KeysOfOneHashAreTwo",
	"keys are hashed without a secret":                     "KeysOfOneHashAreTwo",
	"claims are not atomic":                                "OfManyClaimsOneIsNew",
	"each process has its own lock":                        "OfManyClaimsOneIsNew",
	"taking over is not atomic":                            "OfManyOneTakesALeaseThatEnded",
	"a late Extend is not atomic":                          "LateHolderOrTaker",
	"a late Confirm is not atomic":                         "LateHolderOrTaker",
	"Confirm takes two steps":                              "NoTwoHoldersAndNoneAfterConfirm",
	"what was extended late cannot be confirmed":           "AnyOrderOfCalls",
}

// What the suite takes for pairs of one hash are such.
func TestCollisionsCollide(t *testing.T) {
	t.Parallel()
	sums := map[string]func(string) any{
		"FNV-1a, 64 bits":   func(s string) any { h := fnv.New64a(); _, _ = h.Write([]byte(s)); return h.Sum64() },
		"FNV-1a, 32 bits":   func(s string) any { h := fnv.New32a(); _, _ = h.Write([]byte(s)); return h.Sum32() },
		"FNV-1, 32 bits":    func(s string) any { h := fnv.New32(); _, _ = h.Write([]byte(s)); return h.Sum32() },
		"CRC-32":            func(s string) any { return crc32.ChecksumIEEE([]byte(s)) },
		"MD5":               func(s string) any { return md5.Sum([]byte(s)) },
		"times 33, 32 bits": func(s string) any { return times(33, 5381, s) },
		"times 31":          func(s string) any { return times(31, 0, s) },
		"xxHash64, seed 0":  func(s string) any { return xxLane(s) },
	}
	require.Len(t, collisions(), len(sums))
	for _, c := range collisions() {
		require.NotEqual(t, c.a, c.b, c.hash)
		require.Equal(t, sums[c.hash](c.a), sums[c.hash](c.b), c.hash)
	}
}

func times(n, h uint32, s string) uint32 {
	for i := range len(s) {
		h = n*h + uint32(s[i])
	}
	return h
}

// xxLane is the first lane's state after 64 bytes; the other lanes see what is equal.
func xxLane(s string) [2]any {
	const p1, p2 = 11400714785074694791, 14029467366897019727
	acc := uint64(p1)
	acc += p2
	rest := ""
	for ; len(s) > 0; s = s[32:] {
		var word uint64
		for i := range 8 {
			word |= uint64(s[i]) << (8 * i)
		}
		acc = bits.RotateLeft64(acc+word*p2, 31) * p1
		rest += s[8:32]
	}
	return [2]any{acc, rest}
}
