package kstagetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kstage/kstage"
)

// What must hold when many ask at once. Goroutines report with Errorf and are all
// waited for.

const racers = 16

// race runs f on many goroutines at once, half of them on the other handle.
func (p *probe) race(n int, f func(p *probe, i int) error) {
	var wg sync.WaitGroup
	start := make(chan struct{}) // closed when all are there
	for i := range n {
		q := p
		if i%2 == 1 {
			q = p.others()
		}
		wg.Go(func() {
			<-start
			if err := f(q, i); err != nil {
				p.Errorf("%v", err)
			}
		})
	}
	close(start)
	wg.Wait()
}

// claimants lets n goroutines claim a key, and says how many got it.
func (p *probe) claimants(key string, n int) int {
	var granted atomic.Int64
	p.race(n, func(q *probe, _ int) error {
		l, err := q.tryClaim(key, q.long)
		switch {
		case err != nil:
			return fmt.Errorf("Claim: %w", err)
		case l.State == kstage.ClaimNew:
			granted.Add(1)
		case l.State == kstage.ClaimDone:
			return errors.New("a key that nobody confirmed is done")
		}
		return nil
	})
	return int(granted.Load())
}

func ofManyClaimsOneIsNew(p *probe) {
	for round := range 50 {
		if n := p.claimants(fmt.Sprint(round), racers); n != 1 {
			p.Fatalf("of %d claims at once %d were granted", racers, n)
		}
	}
}

func ofManyOneTakesOver(p *probe) {
	const keys = 20
	var last lent
	for i := range keys {
		last = p.takes(fmt.Sprint(i), p.lease)
	}
	p.outlast(last)
	for i := range keys {
		if n := p.claimants(fmt.Sprint(i), racers); n != 1 {
			p.Fatalf("of %d claims at once of a key whose lease has ended %d were granted", racers, n)
		}
	}
}

// A lease has ended; its holder is back in the very moment that others ask.
func lateHolderOrTaker(p *probe) {
	const rounds = 16
	var held []lent
	var last lent
	for _, a := range acts()[:2] { // Release leaves the key to the others
		for i := range rounds {
			last = p.takes(fmt.Sprint(a.name, i), p.lease)
			held = append(held, last)
		}
	}
	p.outlast(last)
	for i, c := range held {
		p.lateOrTaken(acts()[i/rounds], c, i)
	}
}

// lateOrTaken lets one of four be the late holder, each in turn, and gives it a
// moment's advance every second time.
func (p *probe) lateOrTaken(a act, c lent, round int) {
	p.Helper()
	const parties = 4
	var late, taken atomic.Int64
	p.race(parties, func(q *probe, i int) error {
		if i == round%parties {
			err := caught(func() error { return lateCall(q, a, c.Claim) })
			if err == nil {
				late.Add(1)
			} else if !errors.Is(err, kstage.ErrClaimLost) {
				return fmt.Errorf("%s: %w", a.name, err)
			}
			return nil
		}
		if round%2 == 0 {
			<-time.After(time.Nanosecond)
		}
		l, err := q.tryClaim(c.Key, q.long)
		if err == nil && l.State == kstage.ClaimNew {
			taken.Add(1)
		}
		return err
	})
	if late.Load()+taken.Load() != 1 {
		p.Fatalf("a key whose lease has ended: %s by the late holder succeeded %d times, Claim by others %d times", a.name, late.Load(), taken.Load())
	}
	want := kstage.ClaimInProgress
	if late.Load() == 1 {
		want = a.then
	}
	p.finds(want, c.Key, "after a late "+a.name+" and claims at once")
}

func lateCall(p *probe, a act, c kstage.Claim) error {
	if a.then == kstage.ClaimDone {
		return p.tryConfirm(c)
	}
	return p.tryExtend(c, p.long)
}

// Consumers at work: whoever gets a key is alone with it, also after it was released,
// and once it was confirmed nobody gets it any more.
func noTwoHolders(p *probe) {
	keys := make([]contested, 10)
	p.race(racers, func(q *probe, i int) error {
		rng := rand.New(rand.NewPCG(uint64(i), 1))
		for range 150 {
			n := rng.IntN(len(keys))
			if err := keys[n].visit(q, fmt.Sprint(n), rng); err != nil {
				return err
			}
		}
		return nil
	})
}

// contested is what the goroutines know of a key themselves.
type contested struct {
	inside     atomic.Int64
	confirming atomic.Bool // set before a Confirm
	confirmed  atomic.Bool // set after its answer
}

func (k *contested) visit(p *probe, key string, rng *rand.Rand) error {
	confirmed := k.confirmed.Load()
	l, err := p.tryClaim(key, p.long)
	switch {
	case err != nil:
		return fmt.Errorf("Claim: %w", err)
	case confirmed && l.State != kstage.ClaimDone:
		return fmt.Errorf("key %s was confirmed, and is %v", key, l.State)
	case l.State == kstage.ClaimDone && !k.confirming.Load():
		return fmt.Errorf("key %s is done, and nobody confirms it", key)
	case l.State != kstage.ClaimNew:
		return nil
	}
	if n := k.inside.Add(1); n != 1 {
		return fmt.Errorf("key %s has %d holders", key, n)
	}
	return k.leave(p, l.Claim, rng.IntN(100))
}

func (k *contested) leave(p *probe, c kstage.Claim, dice int) error {
	runtime.Gosched()
	if dice < 50 {
		if err := p.tryExtend(c, p.long); err != nil {
			return fmt.Errorf("Extend by the holder: %w", err)
		}
	}
	if dice%20 == 0 {
		k.confirming.Store(true)
		if err := p.tryConfirm(c); err != nil {
			return fmt.Errorf("Confirm by the holder: %w", err)
		}
		k.confirmed.Store(true)
		return nil
	}
	k.inside.Add(-1)
	if err := p.tryRelease(c); err != nil {
		return fmt.Errorf("Release by the holder: %w", err)
	}
	return nil
}
