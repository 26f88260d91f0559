package kstagetest

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/kstage/kstage"
)

// RunDedupeStoreTests checks, rule by rule, that stores keep the contract of
// [kstage.DedupeStore]. Each rule is a subtest on a store of its own, made by
// factory: one that knows no key (an empty database, or a prefix of its own),
// remembers done keys for at least a minute (in virtual time: an hour), and has
// room for 1,000 keys of up to 1 MiB. What has to be cleaned up, factory leaves to
// t.Cleanup.
//
// Without options the subtests are in real time, with leases of 100 ms, and take a
// few seconds where a call takes less than a millisecond. One subtest is skipped
// without DedupeTTL.
//
// What no test can see from outside is not checked: that an answered Confirm
// survives a crash of the store, and that a hash in place of the key is safe (the
// collisions of well-known hashes are tried).
func RunDedupeStoreTests(t *testing.T, factory func(t *testing.T) kstage.DedupeStore, opts ...DedupeStoreTestOption) {
	t.Helper()
	s := newDedupeSuite(opts)
	for _, c := range dedupeChecks() {
		t.Run(c.name, func(t *testing.T) {
			build := factory
			if c.forgets {
				build = s.forgetful
			}
			if build == nil {
				t.Skip("SKIP: how long done keys are remembered is not checked: give the option DedupeTTL")
			}
			s.inTime(t, func(t *testing.T) {
				t.Helper()
				c.run(s.probe(t, build(t), s.handle(t)))
			})
		})
	}
}

// DedupeStoreTestOption is an option of RunDedupeStoreTests.
type DedupeStoreTestOption interface{ applyDedupeStoreTest(*dedupeSuite) }

type dedupeOption func(*dedupeSuite)

func (o dedupeOption) applyDedupeStoreTest(s *dedupeSuite) { o(s) }

// DedupeVirtualTime runs each subtest, its factory included, in a bubble of
// testing/synctest, with leases of 15 s. It is for stores that live in this process
// and go by its clock.
func DedupeVirtualTime() DedupeStoreTestOption {
	return dedupeOption(func(s *dedupeSuite) { s.virtual = true })
}

// DedupeShortestLease sets how long the leases are that the subtests wait for: by
// default 100 ms, in virtual time 15 s. It must be several times what a call takes
// at its slowest, and what the store's clock can tell apart. Subtests wait for
// about 40 of them in all.
func DedupeShortestLease(d time.Duration) DedupeStoreTestOption {
	return dedupeOption(func(s *dedupeSuite) { s.lease = d })
}

// DedupeClockGranularity sets by how much a lease, or what is remembered, may end
// too late, and by how much Claim.Until may be off: by default 10 ms, in virtual
// time nothing. A lease must not end too early whatever the granularity.
func DedupeClockGranularity(d time.Duration) DedupeStoreTestOption {
	return dedupeOption(func(s *dedupeSuite) { s.granularity, s.granularitySet = d, true })
}

// DedupeTTL lets the suite check how long done keys are remembered: factory makes
// stores that do so for ttl, which should be about a second, in virtual time as
// long as you like.
func DedupeTTL(ttl time.Duration, factory func(t *testing.T) kstage.DedupeStore) DedupeStoreTestOption {
	return dedupeOption(func(s *dedupeSuite) { s.ttl, s.forgetful = ttl, factory })
}

// DedupeOtherHandle is for stores that processes share: other opens the data of a
// store that a factory has made once more, as another process would. Where two
// parties ask for a key, one of them uses it. Without the option both use the same.
func DedupeOtherHandle(other func(t *testing.T, store kstage.DedupeStore) kstage.DedupeStore) DedupeStoreTestOption {
	return dedupeOption(func(s *dedupeSuite) { s.other = other })
}

// dedupeSuite is what the options say.
type dedupeSuite struct {
	virtual        bool
	lease          time.Duration
	granularity    time.Duration
	granularitySet bool
	ttl            time.Duration
	forgetful      func(t *testing.T) kstage.DedupeStore // remembers for ttl; nil: not checked
	other          func(t *testing.T, store kstage.DedupeStore) kstage.DedupeStore
}

func newDedupeSuite(opts []DedupeStoreTestOption) *dedupeSuite {
	s := &dedupeSuite{}
	for _, o := range opts {
		o.applyDedupeStoreTest(s)
	}
	lease, granularity := 100*time.Millisecond, 10*time.Millisecond
	if s.virtual {
		lease, granularity = 15*time.Second, 0
	}
	if s.lease <= 0 {
		s.lease = lease
	}
	if !s.granularitySet {
		s.granularity = granularity
	}
	return s
}

// inTime runs a test in the time the options ask for.
func (s *dedupeSuite) inTime(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	if s.virtual {
		synctest.Test(t, test)
		return
	}
	test(t)
}

// handle makes a second handle on a store.
func (s *dedupeSuite) handle(t *testing.T) func(kstage.DedupeStore) kstage.DedupeStore {
	t.Helper()
	if s.other == nil {
		return func(store kstage.DedupeStore) kstage.DedupeStore { return store }
	}
	return func(store kstage.DedupeStore) kstage.DedupeStore { return s.other(t, store) }
}

func (s *dedupeSuite) probe(t tb, store kstage.DedupeStore, handle func(kstage.DedupeStore) kstage.DedupeStore) *probe {
	return &probe{
		tb: t, store: store, other: handle(store),
		lease: s.lease, long: max(time.Minute, 20*s.lease), granularity: s.granularity, ttl: s.ttl,
	}
}

// dedupeCheck is one rule of the contract.
type dedupeCheck struct {
	name    string
	run     func(p *probe)
	forgets bool // needs a store of DedupeTTL
}

func dedupeChecks() []dedupeCheck {
	return []dedupeCheck{
		{name: "FirstClaimIsNewTheNextInProgress", run: firstClaimIsNew},
		{name: "AskingChangesNothingForTheHolder", run: askingChangesNothing},
		{name: "ConfirmedKeyIsDone", run: confirmedKeyIsDone},
		{name: "ReleasedKeyIsFree", run: releasedKeyIsFree},
		{name: "DoneStaysDoneWhateverItsClaimDoes", run: doneStaysDone},
		{name: "CallsMayBeRepeated", run: callsMayBeRepeated},
		{name: "TokensTellClaimsApart", run: tokensTellClaimsApart},
		{name: "AnotherTokenHasNoEffect", run: anotherTokenHasNoEffect},
		{name: "WhatWasNotGrantedHasNoEffect", run: notGrantedHasNoEffect},
		{name: "LeaseMustBePositive", run: leaseMustBePositive},
		{name: "EndedContextFails", run: endedContextFails},

		{name: "LeaseIsNotCutShort", run: leaseIsNotCutShort},
		{name: "LeaseEnds", run: leaseEnds},
		{name: "ExtendProlongsTheLease", run: extendProlongs},
		{name: "ExtendSetsTheEndAndDoesNotAdd", run: extendSetsTheEnd},
		{name: "DoneOutlivesTheLease", run: doneOutlivesTheLease},
		{name: "LateHolderKeepsWhatNobodyTook", run: lateHolderKeeps},
		{name: "LateHolderOfATakenKeyHasLostIt", run: lateHolderHasLost},
		{name: "LateHolderGetsBackWhatTheOtherLeft", run: lateHolderGetsBack},
		{name: "DoneIsRememberedForItsTime", run: doneIsRemembered, forgets: true},

		{name: "KeysAreBytes", run: keysAreBytes},
		{name: "KeysMayBeLong", run: keysMayBeLong},
		{name: "KeysOfOneHashAreTwo", run: keysOfOneHashAreTwo},

		{name: "OfManyClaimsOneIsNew", run: ofManyClaimsOneIsNew},
		{name: "OfManyOneTakesALeaseThatEnded", run: ofManyOneTakesOver},
		{name: "LateHolderOrTaker", run: lateHolderOrTaker},
		{name: "NoTwoHoldersAndNoneAfterConfirm", run: noTwoHolders},
		{name: "AnyOrderOfCalls", run: anyOrderOfCalls},
	}
}
