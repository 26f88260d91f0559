package kstage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/kstage/kstage/internal/hook"
)

const (
	storeTimeout  = 4 * time.Second  // of one call of the store: Health says within 5 s that it fails
	askAgain      = time.Second      // until a key that somebody else holds, or a store that fails, is asked again
	storeCalls    = 16               // of the keeper at once
	failureFor    = 10 * time.Second // what has failed and is not called any more says so for so long
	flushLimit    = time.Second      // the end of Run waits so long for the store at most
	renewalsOfOne = 3                // of a claim in its lease
)

// confirmBackoff paces confirms that fail. Its end is what bounds how long Health
// says that a store fails which works again.
var confirmBackoff = Backoff{Min: 250 * time.Millisecond, Max: 4 * time.Second} //nolint:gochecknoglobals // a constant in all but type

// claims is a consumer's side of its dedupe store. Workers claim before the handler
// and confirm after it. All the rest is done by one goroutine, keep: it renews what
// is held, releases what is given back, and confirms what could not be confirmed.
type claims struct {
	store    DedupeStore // guarded: it does not panic
	lease    time.Duration
	failOpen bool
	prefix   string // of all keys: nobody else's begin so
	board    *healthBoard
	log      *zap.Logger
	wake     chan struct{} // one slot: something was given back, or not confirmed; read by keep

	mu          sync.Mutex // guards all below, and what is lent; taken after window.mu, never held over a call of the store
	lent        map[*lent]struct{}
	returned    []*lent
	unconfirmed []*unconfirmed
	failed      [storeCallKinds]time.Time // when each kind of call failed last; zero: it worked since
}

// lent is a claim that this consumer holds.
type lent struct {
	Claim
	ends time.Time // of the lease, by this process's clock; zero: the store has given it to another
}

// unconfirmed is a claim whose handler has returned nil, and whose confirm has failed.
type unconfirmed struct {
	*lent
	then func() // the record is finished; nil: it was given back meanwhile
}

func newClaims(c *Consumer) *claims {
	if c.cfg.dedupe == nil {
		return nil
	}
	return &claims{
		store: c.guard.store(c.cfg.dedupe), lease: c.cfg.dedupeLease, failOpen: c.cfg.dedupeFailOpen,
		prefix: c.cfg.group + "\x00" + c.cfg.prefix() + "\x00",
		board:  c.board, log: c.cfg.logger, wake: make(chan struct{}, 1), lent: map[*lent]struct{}{},
	}
}

// before claims a record for its handler, unless that was done for an earlier call
// and still holds. Its verdict is handleNow, or what becomes of the record without a
// call.
func (k *claims) before(c call) verdict {
	w, offset := c.b.w, c.msg.Record.Offset
	if c.h != nil { // it was called before
		if l := w.claim(offset); l != nil && k.holds(l) {
			return verdict{kind: handleNow}
		}
	}
	l, err := k.take(w.intake.base, c.msg)
	switch {
	case err != nil && k.failOpen && w.fenced.Load(): // meanwhile
		return verdict{kind: released}
	case err != nil && k.failOpen:
		return verdict{kind: handleNow}
	case err != nil:
		return verdict{kind: unclaimed, wait: askAgain}
	}
	switch l.State {
	case ClaimDone:
		return verdict{kind: duplicate}
	case ClaimInProgress:
		return verdict{kind: unclaimed, wait: askAgain}
	case ClaimNew:
	}
	hook.Stretch(hook.BeforeLend)
	if !w.lend(offset, l) {
		k.giveBack(l)
		return verdict{kind: released}
	}
	return verdict{kind: handleNow}
}

func (k *claims) holds(l *lent) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return time.Now().Before(l.ends)
}

// take asks for a record's key. Once it was asked the answer is waited for,
// whatever ends meanwhile: a claim that nobody knows of would hold the key for
// its whole lease.
func (k *claims) take(ctx context.Context, msg Message) (*lent, error) {
	limited, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	asked := time.Now()
	claim, err := k.store.Claim(limited, k.prefix+msg.ID(), k.lease)
	if err == nil && claim.State != ClaimNew && claim.State != ClaimInProgress && claim.State != ClaimDone {
		err = fmt.Errorf("kstage: the dedupe store answered %v", claim.State)
	}
	if k.answered(callClaim, err) != nil {
		return nil, err
	}
	l := &lent{Claim: claim, ends: asked.Add(k.lease)}
	if claim.State == ClaimNew {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.lent[l] = struct{}{}
	}
	return l, nil
}

// answered shows in Health whether the store works; it returns the failure. Calls of
// one kind say nothing of another: a store may lend and not confirm. A kind that is
// not called any more is forgotten after a while.
func (k *claims) answered(call storeCall, err error) error {
	failed := err != nil && !errors.Is(err, ErrClaimLost)
	if !failed && k.board.quiet() {
		return nil
	}
	now := time.Now()
	k.mu.Lock()
	k.failed[call] = time.Time{}
	if failed {
		k.failed[call] = now
	}
	works := !slices.ContainsFunc(k.failed[:], func(at time.Time) bool { return now.Sub(at) < failureFor })
	k.mu.Unlock()
	switch {
	case !failed && works && k.board.clear(HealthDedupeFailing, "", -1):
		k.log.Info("the dedupe store works again")
	case failed && k.board.raiseFor(failureFor, HealthReason{Kind: HealthDedupeFailing, Partition: -1, Err: err}):
		k.log.Warn("the dedupe store fails", zap.Stringer("call", call), zap.Bool("fail_open", k.failOpen), zap.Error(err))
	}
	if failed {
		return err
	}
	return nil
}

// storeCall is a method of the store.
type storeCall int

const (
	callClaim storeCall = iota
	callExtend
	callConfirm
	callRelease
	storeCallKinds
)

func (c storeCall) String() string {
	return [storeCallKinds]string{"claim", "extend", "confirm", "release"}[c]
}

// confirm tells the store that the record was handled. A claim that was lost is no
// failure: the record has ended here all the same.
func (k *claims) confirm(ctx context.Context, l *lent) error {
	limited, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if err := k.answered(callConfirm, k.store.Confirm(limited, l.Claim)); err != nil {
		return err
	}
	hook.Stretch(hook.AfterConfirm)
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.lent, l)
	return nil
}

// confirmAgain leaves a confirm that has failed to keep, which calls then when it is done.
func (k *claims) confirmAgain(l *lent, then func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.unconfirmed = append(k.unconfirmed, &unconfirmed{l, then})
	poke(k.wake)
}

// giveBack releases a claim, soon. Its handler has returned.
func (k *claims) giveBack(l *lent) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.lent, l)
	k.returned = append(k.returned, l)
	poke(k.wake)
}

// keep renews, releases and confirms until ctx is done.
func (k *claims) keep(ctx context.Context) {
	renewal := time.NewTicker(k.lease / renewalsOfOne)
	defer renewal.Stop()
	retry := time.NewTimer(0)
	defer retry.Stop()
	base := context.WithoutCancel(ctx)
	for failures := 0; ; {
		due := false
		select {
		case <-ctx.Done():
			return
		case <-renewal.C:
			k.renew(base)
		case <-k.wake:
			due = failures == 0
		case <-retry.C:
			due = true
		}
		k.release(base)
		if !due {
			continue
		}
		if failures++; k.confirmRest(base) {
			failures = 0
			continue
		}
		retry.Reset(confirmBackoff.limit(failures))
	}
}

// renew extends what is held. What the store has given to another, or could not be
// asked about in time, is claimed anew before its next call.
func (k *claims) renew(ctx context.Context) {
	k.mu.Lock()
	held := make([]*lent, 0, len(k.lent))
	for l := range k.lent {
		held = append(held, l)
	}
	k.mu.Unlock()
	hook.Stretch(hook.BeforeRenew)
	each(held, func(l *lent) {
		limited, cancel := context.WithTimeout(ctx, min(storeTimeout, k.lease/renewalsOfOne))
		defer cancel()
		asked := time.Now()
		err := k.store.Extend(limited, l.Claim, k.lease)
		lost := errors.Is(err, ErrClaimLost)
		if k.answered(callExtend, err) != nil {
			return
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		if lost {
			l.ends = time.Time{}
			delete(k.lent, l)
			return
		}
		l.ends = asked.Add(k.lease)
	})
}

// release gives back what was returned. Never while an Extend of it is under way:
// keep does one after the other. What fails runs out with its lease.
func (k *claims) release(ctx context.Context) {
	k.mu.Lock()
	returned := k.returned
	k.returned = nil
	k.mu.Unlock()
	each(returned, func(l *lent) {
		limited, cancel := context.WithTimeout(ctx, storeTimeout)
		defer cancel()
		_ = k.answered(callRelease, k.store.Release(limited, l.Claim))
	})
}

// confirmRest tries what was not confirmed; false when some of it still is not.
func (k *claims) confirmRest(ctx context.Context) bool {
	k.mu.Lock()
	rest := k.unconfirmed
	k.unconfirmed = nil
	k.mu.Unlock()
	each(rest, func(u *unconfirmed) {
		if k.confirm(ctx, u.lent) != nil {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.unconfirmed = append(k.unconfirmed, u)
			return
		}
		if u.then != nil {
			u.then()
		}
	})
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.unconfirmed) == 0
}

// flush is the end: what was given back at the last is released, what is not
// confirmed tried once more, as far as the store answers until ctx is done.
func (k *claims) flush(ctx context.Context) {
	k.release(ctx)
	k.confirmRest(ctx)
}

// each calls f for all, a few at once, and returns when all calls have.
func each[T any](all []T, f func(T)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, storeCalls)
	for _, v := range all {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			f(v)
		})
	}
	wg.Wait()
}
