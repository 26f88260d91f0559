package kstagetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/kstage/kstage"
)

// What becomes of a key without time: each check breaks when one cell of the
// contract's table is another.

func firstClaimIsNew(p *probe) {
	c := p.takes("k", p.long)
	p.finds(kstage.ClaimInProgress, "k", "held, asked by its holder's process")
	l := p.others().finds(kstage.ClaimInProgress, "k", "held")
	if ahead := c.Until.Sub(l.Until).Abs(); ahead > 2*p.granularity+l.answered.Sub(c.asked) {
		p.Fatalf("the holder's lease ends at %v, the others hear %v", c.Until, l.Until)
	}
	p.others().takes("another", p.long)
}

func askingChangesNothing(p *probe) {
	for _, a := range acts() {
		c := p.takes(a.name, p.long)
		for range 3 {
			p.others().finds(kstage.ClaimInProgress, a.name, "held")
		}
		p.want(nil, a.call(p, c.Claim), a.name+" by the holder, after others have asked")
		p.others().finds(a.then, a.name, "after "+a.name)
	}
}

func confirmedKeyIsDone(p *probe) {
	c := p.takes("k", p.long)
	p.want(nil, p.confirm(c.Claim), "Confirm by the holder")
	for range 3 {
		p.finds(kstage.ClaimDone, "k", "confirmed")
		p.others().finds(kstage.ClaimDone, "k", "confirmed")
	}
	p.takes("another", p.long)
}

func releasedKeyIsFree(p *probe) {
	c := p.takes("k", p.long)
	p.want(nil, p.release(c.Claim), "Release by the holder")
	d := p.others().finds(kstage.ClaimNew, "k", "released")
	p.want(kstage.ErrClaimLost, p.release(c.Claim), "Release of a claim whose key another took")
	p.finds(kstage.ClaimInProgress, "k", "held by the other")
	p.want(nil, p.others().confirm(d.Claim), "Confirm by the other")
	p.finds(kstage.ClaimDone, "k", "confirmed by the other")
}

// A deferred Release, or a renewal that is under way, must not undo a Confirm.
func doneStaysDone(p *probe) {
	for _, a := range acts() {
		c := p.takes(a.name, p.long)
		p.want(nil, p.confirm(c.Claim), "Confirm by the holder")
		p.want(nil, a.call(p, c.Claim), a.name+" by who confirmed")
		p.others().finds(kstage.ClaimDone, a.name, "confirmed, then "+a.name)
	}
}

func callsMayBeRepeated(p *probe) {
	for _, a := range acts() {
		c := p.takes(a.name, p.long)
		for n := range 3 {
			p.want(nil, a.call(p, c.Claim), fmt.Sprintf("%s, time %d", a.name, n+1))
		}
		p.others().finds(a.then, a.name, "after "+a.name)
	}
}

func tokensTellClaimsApart(p *probe) {
	seen := map[uint64]bool{}
	for range 100 {
		c := p.takes("k", p.long)
		if seen[c.Token] {
			p.Fatalf("token %d was given to two claims of one key", c.Token)
		}
		seen[c.Token] = true
		p.want(nil, p.release(c.Claim), "Release by the holder")
	}
}

// Each bit of a token counts, also where it passes through a number of 53.
func anotherTokenHasNoEffect(p *probe) {
	c := p.takes("held", p.long)
	d := p.takes("done", p.long)
	p.want(nil, p.confirm(d.Claim), "Confirm by the holder")
	for bit := range 64 {
		for _, right := range []kstage.Claim{c.Claim, d.Claim} {
			wrong := right
			wrong.Token ^= 1 << bit
			p.hasNoEffect(wrong, fmt.Sprintf("with bit %d of its token wrong", bit))
		}
	}
	p.others().finds(kstage.ClaimInProgress, "held", "after calls with other tokens")
	p.others().finds(kstage.ClaimDone, "done", "after calls with other tokens")
	p.want(nil, p.confirm(c.Claim), "Confirm by the holder")
}

func (p *probe) hasNoEffect(c kstage.Claim, what string) {
	p.Helper()
	for _, a := range acts() {
		p.want(kstage.ErrClaimLost, a.call(p, c), a.name+" of a claim "+what)
	}
}

// An answer other than new is nobody's claim, and a Claim that nobody made neither.
func notGrantedHasNoEffect(p *probe) {
	c := p.takes("k", p.long)
	busy := p.finds(kstage.ClaimInProgress, "k", "held")
	p.hasNoEffect(busy.Claim, "that was in progress")
	p.hasNoEffect(kstage.Claim{Key: "k"}, "without a token")
	busy.Token = c.Token
	p.hasNoEffect(busy.Claim, "that was in progress, with the holder's token")
	p.others().finds(kstage.ClaimInProgress, "k", "after calls of claims that were not granted")

	p.want(nil, p.release(c.Claim), "Release by the holder")
	p.hasNoEffect(busy.Claim, "that was in progress, its key free now")
	for _, state := range []kstage.ClaimState{kstage.ClaimNew, kstage.ClaimInProgress, kstage.ClaimDone} {
		p.hasNoEffect(kstage.Claim{Key: "k", State: state}, "without a token")
	}
	c = p.others().finds(kstage.ClaimNew, "k", "released, after calls of claims that were not granted")
	p.want(nil, p.others().confirm(c.Claim), "Confirm by the holder")
	p.hasNoEffect(p.finds(kstage.ClaimDone, "k", "confirmed").Claim, "that was done")
	p.finds(kstage.ClaimDone, "k", "after calls of claims that were not granted")
}

func leaseMustBePositive(p *probe) {
	c := p.takes("held", p.long)
	for _, d := range []time.Duration{0, -1, -time.Second, math.MinInt64} {
		if _, err := p.tryClaim("free", d); err == nil {
			p.Fatalf("Claim with a lease of %v: no error", d)
		}
		if err := p.tryExtend(c.Claim, d); err == nil || errors.Is(err, kstage.ErrClaimLost) {
			p.Fatalf("Extend by a lease of %v: %v, want an error that is not ErrClaimLost", d, err)
		}
	}
	p.others().takes("free", p.long)
	p.others().finds(kstage.ClaimInProgress, "held", "after leases that are not positive")
}

// Its outcome is unknown; but a key that nobody confirmed is not done, and an
// outage is no lost claim.
func endedContextFails(p *probe) {
	ctx, cancel := context.WithCancel(p.Context())
	cancel()
	err := caught(func() error { _, err := p.store.Claim(ctx, "free", p.long); return err })
	p.outage(err, "Claim")
	if l := p.others().claim("free", p.long); l.State == kstage.ClaimDone {
		p.Fatalf("a key whose only Claim failed is done")
	}

	c := p.takes("held", p.long)
	p.outage(caught(func() error { return p.store.Extend(ctx, c.Claim, p.long) }), "Extend")
	p.others().finds(kstage.ClaimInProgress, "held", "after an Extend that failed")
	p.outage(caught(func() error { return p.store.Release(ctx, c.Claim) }), "Release")
	if l := p.others().claim("held", p.long); l.State == kstage.ClaimDone {
		p.Fatalf("a key whose Release failed is done")
	}
	d := p.takes("confirmed", p.long)
	p.outage(caught(func() error { return p.store.Confirm(ctx, d.Claim) }), "Confirm")
	p.want(nil, p.confirm(d.Claim), "Confirm, tried again")
	p.others().finds(kstage.ClaimDone, "confirmed", "confirmed at the second try")
}

func (p *probe) outage(err error, call string) {
	p.Helper()
	if err == nil || errors.Is(err, kstage.ErrClaimLost) {
		p.Fatalf("%s with a context that has ended: %v, want another error", call, err)
	}
}
