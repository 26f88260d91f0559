//go:build !sim

package hook

import (
	"context"
	"time"
)

// On says whether the points do anything.
const On = false

// Stretch is nothing.
func Stretch(Point) {}

// Now is time.Now.
func Now(context.Context) time.Time { return time.Now() }

// OnStretch is nothing.
func OnStretch(func(Point)) {}

// Clock is no clock.
type Clock struct{}

// Set is nothing.
func (*Clock) Set(time.Duration) {}

// WithClock returns ctx.
func WithClock(ctx context.Context, _ *Clock) context.Context { return ctx }
