//go:build synctests

package kstage_test

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
)

var errStoreDown = errors.New("the store is down")

// fickle is a dedupe store that does what a test says before it answers.
type fickle struct {
	kstage.DedupeStore
	mu     sync.Mutex // guards before and calls
	before func(ctx context.Context, call, key string) error
	calls  map[string]int
}

func newFickle() *fickle {
	return &fickle{DedupeStore: kstage.NewMemoryDedupeStore(time.Hour, 100_000), calls: map[string]int{}}
}

// set says what to do before each call; nil: nothing.
func (f *fickle) set(before func(ctx context.Context, call, key string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before = before
}

func (f *fickle) count(call string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[call]
}

func (f *fickle) called(ctx context.Context, call, key string) error {
	f.mu.Lock()
	f.calls[call]++
	before := f.before
	f.mu.Unlock()
	if before == nil {
		return nil
	}
	return before(ctx, call, key)
}

func (f *fickle) Claim(ctx context.Context, key string, lease time.Duration) (kstage.Claim, error) {
	if err := f.called(ctx, "claim", key); err != nil {
		return kstage.Claim{}, err
	}
	return f.DedupeStore.Claim(ctx, key, lease)
}

func (f *fickle) Extend(ctx context.Context, c kstage.Claim, lease time.Duration) error {
	if err := f.called(ctx, "extend", c.Key); err != nil {
		return err
	}
	return f.DedupeStore.Extend(ctx, c, lease)
}

func (f *fickle) Confirm(ctx context.Context, c kstage.Claim) error {
	if err := f.called(ctx, "confirm", c.Key); err != nil {
		return err
	}
	return f.DedupeStore.Confirm(ctx, c)
}

func (f *fickle) Release(ctx context.Context, c kstage.Claim) error {
	if err := f.called(ctx, "release", c.Key); err != nil {
		return err
	}
	return f.DedupeStore.Release(ctx, c)
}

// refusing fails the named calls, or all where none is named.
func refusing(calls ...string) func(context.Context, string, string) error {
	return func(_ context.Context, call, _ string) error {
		for _, c := range calls {
			if c == call {
				return errStoreDown
			}
		}
		if len(calls) == 0 {
			return errStoreDown
		}
		return nil
	}
}

// identified makes a record with a message id.
func identified(topic string, key, id string) *kgo.Record {
	r := record(topic, 0, key, id)
	r.Headers = []kgo.RecordHeader{{Key: "message-id", Value: []byte(id)}}
	return r
}

// byID counts the handler calls of each message.
type byID struct {
	mu sync.Mutex
	n  map[string]int
}

func (b *byID) note(m kstage.Message) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.n == nil {
		b.n = map[string]int{}
	}
	b.n[m.ID()]++
	return b.n[m.ID()]
}

func (b *byID) all() map[string]int {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := map[string]int{}
	for k, v := range b.n {
		c[k] = v
	}
	return c
}
