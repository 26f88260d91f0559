package kstage

import "context"

// Handler handles records.
//
// Handle is called by up to WithWorkers goroutines at once. By default two
// calls for records of one key of one partition never overlap and come in
// offset order (see Ordering). What it returns decides what becomes of the
// record:
//
//	nil             finished
//	Skip(err)       finished, counted as skipped
//	Permanent(err)  dead at once: to the dead-letter queue
//	RetryAfter(err, d), Snooze(d)
//	                called again no sooner than d from now
//	any other error as WithClassifier says, else immediate retries, then the
//	                retry topics of WithRetryStages, then dead
//
// Dead is also what fails later than WithMaxAge allows. A dead record goes to the
// dead-letter topic, or where WithoutDLQ says.
//
// A panic, and the end of the goroutine (runtime.Goexit), count as errors.
//
// ctx is the assignment's: it is cancelled only when the partition was lost,
// or when a drain (rebalance, shutdown) has taken too long; context.Cause tells
// which (ErrRevoked, ErrLost, ErrShutdown). An error returned after that costs
// no attempt and has no effect: the record is handled again by the partition's
// next owner. A nil always ends the record. With WithHandlerTimeout ctx also
// ends when the timeout passes (ErrHandlerTimeout): that is a failure.
//
// Handle must return when ctx is done: a handler that does not holds its worker,
// and no library can stop it.
type Handler interface {
	Handle(ctx context.Context, msg Message) error
}

// HandlerFunc is a function that is a Handler.
type HandlerFunc func(ctx context.Context, msg Message) error

// Handle calls f.
func (f HandlerFunc) Handle(ctx context.Context, msg Message) error { return f(ctx, msg) }

// Middleware wraps a Handler: to time it, trace it, change its context, decode
// its message, or answer in its place. It is called once for each Consumer, not
// for each record.
type Middleware func(Handler) Handler

// wrap folds middlewares around h: the first is the outermost. None returns nil.
func wrap(h Handler, ms []Middleware) Handler {
	for i := len(ms) - 1; i >= 0; i-- {
		h = ms[i](h)
	}
	return h
}
