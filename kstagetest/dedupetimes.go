package kstagetest

import (
	"fmt"
	"time"

	"github.com/kstage/kstage"
)

// What becomes of a key by the time that passes. A lease must not end too early,
// not even by a moment; it may end too late by the granularity.

func tenths(d time.Duration, n int) time.Duration { return d / 10 * time.Duration(n) }

func leaseIsNotCutShort(p *probe) {
	for _, share := range []int{0, 4, 8, 9} {
		p.quickly(func(key string, lease time.Duration) bool {
			c := p.takes(fmt.Sprint(key, " ", share), lease)
			p.wait(c.asked.Add(tenths(lease, share)))
			l := p.others().claim(c.Key, p.long)
			if !c.held(l.answered) {
				return false
			}
			p.is(kstage.ClaimInProgress, l, "before its lease has ended")
			return true
		})
	}
}

func leaseEnds(p *probe) {
	c := p.takes("k", p.lease)
	asked := p.takes("asked", p.lease)
	for asked.held(time.Now()) {
		l := p.others().claim("asked", p.lease)
		if l.State == kstage.ClaimNew && !asked.held(l.answered) { // it had just ended
			asked = l
			break
		}
		p.is(kstage.ClaimInProgress, l, "before its lease has ended")
		p.wait(time.Now().Add(p.lease / 4))
	}
	p.outlast(asked)
	p.others().finds(kstage.ClaimNew, "asked", "after its lease has ended, in spite of others' asking")
	d := p.others().finds(kstage.ClaimNew, "k", "after its lease has ended")
	if c.Token == d.Token {
		p.Fatalf("two claims of one key have one token")
	}
}

func extendProlongs(p *probe) {
	p.quickly(func(key string, lease time.Duration) bool {
		c := p.takes(key, lease)
		p.wait(c.asked.Add(tenths(lease, 6)))
		longer := p.extended(c, lease)
		if !c.held(longer.answered) {
			return false
		}
		p.wait(longer.asked.Add(tenths(lease, 7)))
		l := p.others().claim(key, p.long)
		if !longer.held(l.answered) {
			return false
		}
		p.is(kstage.ClaimInProgress, l, "extended, after the end of the first lease")
		p.outlast(longer)
		p.others().finds(kstage.ClaimNew, key, "after the end of the extended lease")
		return true
	})
}

// extended extends c, and returns it with its new lease.
func (p *probe) extended(c lent, lease time.Duration) lent {
	p.Helper()
	l := lent{Claim: c.Claim, lease: lease, asked: time.Now()}
	p.want(nil, p.extend(c.Claim, lease), "Extend by the holder")
	l.answered = time.Now()
	return l
}

// A consumer that renews for an hour and dies must not hold its keys for another.
func extendSetsTheEnd(p *probe) {
	c := p.takes("added", p.lease)
	for range 10 {
		c = p.extended(c, p.lease)
	}
	d := p.extended(p.takes("shorter", p.long), p.lease)
	p.outlast(c)
	p.others().finds(kstage.ClaimNew, "added", "extended ten times in a row, after the last lease")
	p.outlast(d)
	p.others().finds(kstage.ClaimNew, "shorter", "extended by less than was left, after that")
}

func doneOutlivesTheLease(p *probe) {
	c := p.takes("k", p.lease)
	p.want(nil, p.confirm(c.Claim), "Confirm by the holder")
	after := p.takes("extended", p.lease)
	p.want(nil, p.confirm(after.Claim), "Confirm by the holder")
	after = p.extended(after, p.lease)
	p.outlast(after)
	p.others().finds(kstage.ClaimDone, "k", "confirmed, after its lease would have ended")
	p.others().finds(kstage.ClaimDone, "extended", "confirmed and extended, after that lease")
}

// A long pause, and nobody asked meanwhile: the handler runs, or has returned nil.
func lateHolderKeeps(p *probe) {
	for _, a := range acts() {
		c := p.takes(a.name, p.lease)
		p.outlast(c)
		p.want(nil, a.call(p, c.Claim), a.name+" after the lease, the key free")
		p.others().finds(a.then, a.name, "after a late "+a.name)
	}
}

func lateHolderHasLost(p *probe) {
	for _, a := range acts() {
		c := p.takes(a.name, p.lease)
		p.outlast(c)
		d := p.others().finds(kstage.ClaimNew, a.name, "after its lease has ended")
		p.want(kstage.ErrClaimLost, a.call(p, c.Claim), a.name+" of a claim whose key another holds")
		p.finds(kstage.ClaimInProgress, a.name, "held by another, after "+a.name+" of the lost claim")
		p.want(nil, p.others().confirm(d.Claim), "Confirm by the other")
		p.want(kstage.ErrClaimLost, a.call(p, c.Claim), a.name+" of a claim whose key another confirmed")
		p.finds(kstage.ClaimDone, a.name, "confirmed by another, after "+a.name+" of the lost claim")
		p.want(nil, p.others().confirm(d.Claim), "Confirm by the other, again")
	}
}

// The key is free again: a late Confirm tells the truth, whoever had it meanwhile.
func lateHolderGetsBack(p *probe) {
	for _, a := range acts() {
		c := p.takes("released before "+a.name, p.lease)
		d := p.takes("left before "+a.name, p.lease)
		p.outlast(d)
		released := p.others().takes(c.Key, p.long)
		p.want(nil, p.others().release(released.Claim), "Release by the other")
		left := p.others().takes(d.Key, p.lease)
		p.outlast(left)
		for _, l := range []lent{c, d} {
			p.want(nil, a.call(p, l.Claim), a.name+" of a claim whose key is free again")
			p.others().finds(a.then, l.Key, "after a late "+a.name)
		}
		if a.then != kstage.ClaimNew {
			p.want(kstage.ErrClaimLost, p.others().confirm(left.Claim), "Confirm by the other, after "+a.name)
		}
	}
}

// From the Confirm, not from the Claim; asking and confirming again prolong nothing.
func doneIsRemembered(p *probe) {
	p.quickly(func(key string, _ time.Duration) bool {
		c := p.takes(key, max(p.long, 2*p.ttl))
		p.wait(c.asked.Add(tenths(p.ttl, 6)))
		done := lent{Claim: c.Claim, lease: p.ttl, asked: time.Now()}
		p.want(nil, p.confirm(c.Claim), "Confirm by the holder")
		done.answered = time.Now()
		for _, share := range []int{0, 5, 8} {
			p.wait(done.asked.Add(tenths(p.ttl, share)))
			l := p.others().claim(key, p.long)
			if !done.held(l.answered) {
				return false
			}
			p.is(kstage.ClaimDone, l, "before its time is over")
			p.want(nil, p.confirm(c.Claim), "Confirm by the holder, again")
		}
		if !done.held(time.Now()) {
			return false
		}
		p.outlast(done)
		again := p.others().finds(kstage.ClaimNew, key, "after its time is over")
		p.want(nil, p.others().confirm(again.Claim), "Confirm of a key that was forgotten")
		p.finds(kstage.ClaimDone, key, "confirmed once more")
		return true
	})
}
