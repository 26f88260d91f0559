package kstagetest

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/kstage/kstage"
)

// anyOrderOfCalls makes calls at random, and compares each answer with what the
// contract's table says. The worlds are the same in each run.
func anyOrderOfCalls(p *probe) {
	for seed := range uint64(6) {
		m := &model{probe: p, rng: rand.New(rand.NewPCG(seed, 2)), world: seed, keys: make([]modelKey, 4)}
		for range 120 {
			m.step()
		}
	}
}

// model is what the store should know. A key whose state depends on which of two
// moments in real time was first is given up for a new one.
type model struct {
	*probe
	rng   *rand.Rand
	world uint64
	keys  []modelKey
	log   []string
}

type modelKey struct {
	born   int
	claims []kstage.Claim // all that were granted
	holder uint64         // token; 0: free
	done   bool           // confirmed by the holder
	lease  lent           // the holder's
}

func (m *model) step() {
	m.Helper()
	n := m.rng.IntN(len(m.keys))
	k := &m.keys[n]
	m.free(k)
	key := fmt.Sprintf("world %d, key %d.%d", m.world, n, k.born)
	switch dice := m.rng.IntN(100); {
	case dice < 8:
		m.note("time passes")
		m.wait(time.Now().Add(m.lease / 2))
	case dice < 40 && k.done:
		*k = modelKey{born: k.born + 1}
	case dice < 40 || len(k.claims) == 0:
		m.claimed(k, key)
	default:
		m.acted(k)
	}
}

// free takes note of a lease that has ended, and waits where it may have.
func (m *model) free(k *modelKey) {
	if k.holder == 0 || k.done || k.lease.held(time.Now()) {
		return
	}
	m.outlast(k.lease)
	k.holder = 0
	m.note("a lease has ended")
}

func (m *model) party() *probe {
	if m.rng.IntN(2) == 0 {
		return m.probe
	}
	return m.others()
}

func (m *model) someLease() time.Duration {
	if m.rng.IntN(2) == 0 {
		return m.lease
	}
	return m.long
}

func (m *model) claimed(k *modelKey, key string) {
	m.Helper()
	l := m.party().claim(key, m.someLease())
	m.note("Claim(%s, %v): %v, token %d", key, l.lease, l.State, l.Token)
	want := kstage.ClaimNew
	switch {
	case k.done:
		want = kstage.ClaimDone
	case k.holder != 0 && !k.lease.held(l.answered):
		m.giveUp(k)
		return
	case k.holder != 0:
		want = kstage.ClaimInProgress
	}
	if l.State != want {
		m.wrong("want %v", want)
	}
	if want == kstage.ClaimNew {
		k.claims = append(k.claims, l.Claim)
		k.holder, k.lease = l.Token, l
	}
}

// acted lets any claim the key ever had make a call, the last one most often.
func (m *model) acted(k *modelKey) {
	m.Helper()
	c := k.claims[len(k.claims)-1]
	if m.rng.IntN(2) == 0 {
		c = k.claims[m.rng.IntN(len(k.claims))]
	}
	name := []string{"Extend", "Extend", "Release", "Confirm"}[m.rng.IntN(4)]
	l, err := m.call(name, c)
	m.note("%s(%s, %v) of token %d: %v", name, c.Key, l.lease, c.Token, err)
	if k.holder != 0 && !k.done && !k.lease.held(l.answered) {
		m.giveUp(k)
		return
	}
	mine := k.holder == 0 || k.holder == c.Token
	if mine != (err == nil) {
		m.wrong("the key's holder is %d", k.holder)
	}
	if mine && !k.done {
		k.after(name, l)
	}
}

func (m *model) call(name string, c kstage.Claim) (l lent, err error) {
	m.Helper()
	p := m.party()
	l = lent{Claim: c, asked: time.Now()}
	switch name {
	case "Extend":
		l.lease = m.someLease()
		err = p.extend(c, l.lease)
	case "Confirm":
		err = p.confirm(c)
	case "Release":
		err = p.release(c)
	}
	l.answered = time.Now()
	return l, err
}

func (k *modelKey) after(name string, l lent) {
	k.holder, k.lease = l.Token, l
	switch name {
	case "Confirm":
		k.done = true
	case "Release":
		k.holder = 0
	}
}

func (m *model) giveUp(k *modelKey) {
	m.note("too slow to tell: a new key")
	*k = modelKey{born: k.born + 1}
}

func (m *model) note(format string, args ...any) { m.log = append(m.log, fmt.Sprintf(format, args...)) }

func (m *model) wrong(format string, args ...any) {
	m.Helper()
	const most = 20
	m.Fatalf("%s; world %d, the last calls:\n  %s", fmt.Sprintf(format, args...), m.world,
		strings.Join(m.log[max(0, len(m.log)-most):], "\n  "))
}
