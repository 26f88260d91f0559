package sim

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/kstage/kstage"
)

// store is the dedupe store of all groups. What it does and what is written down of
// it happen in one step.
type store struct {
	history *History

	mu    sync.Mutex // guards all below
	inner *kstage.MemoryDedupeStore
	rng   *rand.Rand
	until time.Time // the end of its trouble
	how   trouble
}

// trouble is what is wrong with the store.
type trouble int

const (
	storeDown   trouble = iota // calls fail
	storeSlow                  // calls take long
	storeLosing                // calls act, and fail
	storeFlaky                 // some calls fail
	storeTroubles
)

func (t trouble) String() string {
	return [storeTroubles]string{"down", "slow", "losing answers", "flaky"}[t]
}

func newStore(h *History, seed uint64) *store {
	return &store{history: h, inner: kstage.NewMemoryDedupeStore(24*time.Hour, 100_000), rng: rand.New(rand.NewPCG(seed, 3))}
}

// fail makes the store be in trouble for a while.
func (s *store) fail(how trouble, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.how, s.until = how, time.Now().Add(d)
}

var errStore = errors.New("sim: the store fails")

// call does what act does, as far as the store works. act is called under s.mu.
func (s *store) call(ctx context.Context, e Event, act func(e *Event) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	how, trouble := s.how, time.Now().Before(s.until)
	if trouble && how == storeFlaky {
		trouble = s.rng.IntN(3) == 0
		how = oneOf(draw{s.rng}, storeDown, storeSlow, storeLosing)
	}
	slow := time.Duration(s.rng.IntN(6000)) * time.Millisecond
	s.mu.Unlock()
	if !trouble {
		return s.act(e, act)
	}
	switch how {
	case storeSlow:
		if err := pause(ctx, slow, nil); err == nil {
			return s.act(e, act)
		}
	case storeLosing:
		_ = s.act(e, act)
	case storeDown, storeFlaky, storeTroubles:
	}
	e.Note = e.Kind + " " + how.String()
	e.Kind = Strayed
	s.history.add(e)
	return errStore
}

func (s *store) act(e Event, act func(e *Event) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := act(&e)
	if err != nil {
		e.Note = err.Error()
	}
	s.history.add(e)
	return err
}

// handle is a member's way to the store.
type handle struct {
	m     *member
	store *store
}

var _ kstage.DedupeStore = (*handle)(nil)

func (h *handle) event(k Kind, c kstage.Claim) Event {
	return Event{Kind: k, Member: h.m.name, Group: h.m.group.Name, Key: c.Key, Token: c.Token}
}

// call fails where the member has crashed.
func (h *handle) call(ctx context.Context, e Event, act func(e *Event) error) error {
	if h.m.crashed.Load() {
		return errGone
	}
	return h.store.call(ctx, e, act)
}

// Claim implements kstage.DedupeStore.
func (h *handle) Claim(ctx context.Context, key string, lease time.Duration) (c kstage.Claim, err error) {
	e := h.event(Asked, kstage.Claim{Key: key})
	_, id, _ := cutLast(key, "\x00")
	e.Place = h.m.w.placeOf(id)
	err = h.call(ctx, e, func(e *Event) (err error) {
		c, err = h.store.inner.Claim(ctx, key, lease)
		e.Answer, e.Token = c.State.String(), c.Token
		return err
	})
	if err != nil {
		return kstage.Claim{}, err
	}
	return c, nil
}

// Extend implements kstage.DedupeStore.
func (h *handle) Extend(ctx context.Context, c kstage.Claim, lease time.Duration) error {
	return h.call(ctx, h.event(Extended, c), func(*Event) error { return h.store.inner.Extend(ctx, c, lease) })
}

// Confirm implements kstage.DedupeStore.
func (h *handle) Confirm(ctx context.Context, c kstage.Claim) error {
	return h.call(ctx, h.event(Sure, c), func(*Event) error { return h.store.inner.Confirm(ctx, c) })
}

// Release implements kstage.DedupeStore.
func (h *handle) Release(ctx context.Context, c kstage.Claim) error {
	return h.call(ctx, h.event(Freed, c), func(*Event) error { return h.store.inner.Release(ctx, c) })
}
