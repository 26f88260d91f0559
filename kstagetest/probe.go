package kstagetest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/kstage/kstage"
)

// tb is what the checks need of a test. A *testing.T is one; so is the recorder by
// which the checks themselves are tested.
type tb interface {
	Helper()
	Context() context.Context
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// probe asks a store, and looks at every answer. Its methods end the check on an
// answer that no store may give, so they are for the check's own goroutine; those
// whose names begin with try are for any.
type probe struct {
	tb
	store kstage.DedupeStore
	other kstage.DedupeStore // the same keys, seen from elsewhere

	lease       time.Duration // one that is waited for
	long        time.Duration // one that does not end within a check
	granularity time.Duration
	ttl         time.Duration
}

// others is the same probe on the other handle.
func (p *probe) others() *probe {
	o := *p
	o.store, o.other = p.other, p.store
	return &o
}

// lent is a claim, and how long it is held for.
type lent struct {
	kstage.Claim
	lease           time.Duration
	asked, answered time.Time // the lease began in between
}

// held says that at a moment the lease had certainly not ended yet.
func (l lent) held(at time.Time) bool { return at.Before(l.asked.Add(l.lease)) }

// claim asks for a key. Whatever the answer is, it must be a possible one.
func (p *probe) claim(key string, lease time.Duration) lent {
	p.Helper()
	l, err := p.tryClaim(key, lease)
	if err != nil {
		p.Fatalf("Claim(%s, %v): %v", show(key), lease, err)
	}
	return l
}

func (p *probe) tryClaim(key string, lease time.Duration) (l lent, err error) {
	l.lease, l.asked = lease, time.Now()
	err = caught(func() (err error) {
		l.Claim, err = p.store.Claim(p.Context(), key, lease)
		return err
	})
	l.answered = time.Now()
	if err != nil {
		return l, err
	}
	return l, p.possible(key, l)
}

// possible finds what is wrong with an answer in itself.
func (p *probe) possible(key string, l lent) error {
	switch {
	case l.Key != key:
		return fmt.Errorf("the answer is of another key, %s", show(l.Key))
	case l.State == kstage.ClaimNew && l.Token == 0:
		return errors.New("a new claim without a token")
	case l.State == kstage.ClaimNew:
		return p.endsAbout(l)
	case l.State != kstage.ClaimInProgress && l.State != kstage.ClaimDone:
		return fmt.Errorf("the answer has no state: %v", l.State)
	case l.Token != 0:
		return fmt.Errorf("%v, with a token", l.State)
	case l.State == kstage.ClaimInProgress && l.Until.Before(l.asked.Add(-p.granularity)):
		return fmt.Errorf("in progress until %v, asked at %v", l.Until, l.asked)
	}
	return nil
}

func (p *probe) endsAbout(l lent) error {
	from, to := l.asked.Add(l.lease-p.granularity), l.answered.Add(l.lease+p.granularity)
	if l.Until.Before(from) || l.Until.After(to) {
		return fmt.Errorf("a lease of %v ends at %v, not between %v and %v", l.lease, l.Until, from, to)
	}
	return nil
}

// finds claims a key for long, and ends the check unless the answer is state.
func (p *probe) finds(state kstage.ClaimState, key, when string) lent {
	p.Helper()
	l := p.claim(key, p.long)
	p.is(state, l, when)
	return l
}

func (p *probe) is(state kstage.ClaimState, l lent, when string) {
	p.Helper()
	if l.State != state {
		p.Fatalf("%s: key %s is %v, want %v", when, show(l.Key), l.State, state)
	}
}

// takes claims a key that must be free, for so long.
func (p *probe) takes(key string, lease time.Duration) lent {
	p.Helper()
	l := p.claim(key, lease)
	p.is(kstage.ClaimNew, l, "a key that is free")
	return l
}

// extend, confirm and release end the check on errors that are no answer.

func (p *probe) extend(c kstage.Claim, lease time.Duration) error {
	p.Helper()
	return p.answer("Extend", p.tryExtend(c, lease))
}

func (p *probe) confirm(c kstage.Claim) error {
	p.Helper()
	return p.answer("Confirm", p.tryConfirm(c))
}

func (p *probe) release(c kstage.Claim) error {
	p.Helper()
	return p.answer("Release", p.tryRelease(c))
}

func (p *probe) tryExtend(c kstage.Claim, lease time.Duration) error {
	return caught(func() error { return p.store.Extend(p.Context(), c, lease) })
}

func (p *probe) tryConfirm(c kstage.Claim) error {
	return caught(func() error { return p.store.Confirm(p.Context(), c) })
}

func (p *probe) tryRelease(c kstage.Claim) error {
	return caught(func() error { return p.store.Release(p.Context(), c) })
}

func (p *probe) answer(call string, err error) error {
	p.Helper()
	if err != nil && !errors.Is(err, kstage.ErrClaimLost) {
		p.Fatalf("%s: %v", call, err)
	}
	return err
}

// want compares the answer to a call: nil or ErrClaimLost.
func (p *probe) want(want, got error, what string) {
	p.Helper()
	if !errors.Is(got, want) {
		p.Fatalf("%s: %v, want %v", what, got, want)
	}
}

// act is a call that a holder makes.
type act struct {
	name string
	call func(p *probe, c kstage.Claim) error
	then kstage.ClaimState // what the others find after it had its effect
}

func acts() []act {
	return []act{
		{"Extend", func(p *probe, c kstage.Claim) error { return p.extend(c, p.long) }, kstage.ClaimInProgress},
		{"Confirm", func(p *probe, c kstage.Claim) error { return p.confirm(c) }, kstage.ClaimDone},
		{"Release", func(p *probe, c kstage.Claim) error { return p.release(c) }, kstage.ClaimNew},
	}
}

// wait waits until a moment.
func (p *probe) wait(until time.Time) { <-time.After(time.Until(until)) }

// outlast waits until a lease has certainly ended.
func (p *probe) outlast(l lent) { p.wait(l.answered.Add(l.lease + p.granularity + time.Nanosecond)) }

// quickly repeats what is only worth something while a lease has not ended, on a new
// key and with twice the lease, until it was quick enough to say so: a machine that
// has much to do must not fail the check.
func (p *probe) quickly(try func(key string, lease time.Duration) bool) {
	p.Helper()
	lease := p.lease
	for n := range 10 {
		if try("quickly "+strconv.Itoa(n), lease) {
			return
		}
		lease *= 2
	}
	p.Fatalf("calls take so long that leases of %v end meanwhile: see DedupeShortestLease", lease)
}

// caught makes a panic an error.
func caught(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	return f()
}

// show makes a key readable.
func show(key string) string {
	const most = 60
	if len(key) <= most {
		return strconv.Quote(key)
	}
	return fmt.Sprintf("%q... (%d bytes)", key[:most], len(key))
}
