//go:build sim

package hook

import (
	"context"
	"sync/atomic"
	"time"
)

// On says whether the points do anything.
const On = true

var stretch atomic.Pointer[func(Point)] //nolint:gochecknoglobals // it is what the build tag is for: it need not reach every place as an argument

// OnStretch makes f be called at each point, by many goroutines at once, until
// another is set; nil: nothing is.
func OnStretch(f func(Point)) {
	if f == nil {
		stretch.Store(nil)
		return
	}
	stretch.Store(&f)
}

// Stretch is called at a point. No lock but the commit gate is held there.
func Stretch(p Point) {
	if f := stretch.Load(); f != nil {
		(*f)(p)
	}
}

// Clock is a wall clock that is wrong. Its zero value is right.
type Clock struct{ off atomic.Int64 }

// Set sets how far the clock is ahead.
func (c *Clock) Set(ahead time.Duration) { c.off.Store(int64(ahead)) }

type clockKey struct{}

// WithClock makes Now go by c for ctx and what descends from it.
func WithClock(ctx context.Context, c *Clock) context.Context {
	return context.WithValue(ctx, clockKey{}, c)
}

// Now is the wall clock of ctx.
func Now(ctx context.Context) time.Time {
	now := time.Now()
	if c, ok := ctx.Value(clockKey{}).(*Clock); ok {
		now = now.Add(time.Duration(c.off.Load()))
	}
	return now
}
