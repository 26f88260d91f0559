package kstage

import (
	"context"
	"errors"
	"time"
)

// ErrClaimLost is returned by Extend, Confirm and Release of a claim that is no
// longer its holder's: its lease ran out and another claim took the key, or what
// was passed never was a claim (its State is not ClaimNew).
//
// It is an answer, not a failure: asking again gives it again. A store returns it
// for nothing else, an outage least of all.
var ErrClaimLost = errors.New("kstage: dedupe claim lost")

// DedupeStore remembers which keys were handled, and lends each key to one holder
// at a time. A record's key is claimed before its handler runs; the claim is
// confirmed after the handler returned nil, and released when it failed and its
// copy for a later attempt is acknowledged. kstagetest.RunDedupeStoreTests checks
// that an implementation keeps what is said here.
//
// # States
//
// To each caller a key is free, held (by one claim, until its lease ends) or done
// (until it is forgotten). A key whose lease ran out is free, and so is a released
// or forgotten one, and one that was never seen. A call does what its row and
// column say, in one atomic step:
//
//	           key is free    held by c      done by c   held or done by another
//	Claim      held, New      (as the last column)       unchanged, InProgress or Done
//	Extend(c)  held by c      lease anew     unchanged   unchanged, ErrClaimLost
//	Confirm(c) done by c      done by c      unchanged   unchanged, ErrClaimLost
//	Release(c) free           free           unchanged   unchanged, ErrClaimLost
//
// So of any number of concurrent Claims of a free key exactly one gets ClaimNew.
// All three calls may be repeated by who has not heard the answer. A holder that
// was late (a long pause, an unreachable store) gets its key back where nobody took
// it meanwhile: its handler runs, or has returned nil, whatever the clock says.
//
// Done is a promise, and the only answer that can lose a record: a store may say
// ClaimDone of a key only when that very key was confirmed. Forgetting is allowed
// where it cannot be helped, since it makes a record handled twice and never lost;
// a store that may forget an answered Confirm (replication behind, eviction) has
// to say so in its documentation.
//
// # Keys
//
// A key is any string of bytes: of any length, also empty, with NULs, and not
// always UTF-8. Two keys are equal when all their bytes are: a store that keeps
// less than the whole key must keep at least 128 bits of a hash that nobody can
// find collisions of. The caller makes keys that belong to nobody else.
//
// # Time
//
// A lease counts from the moment the store acts on the call, by the store's clock,
// and so does the time for which a done key is remembered: from the Confirm that
// made it done, and neither repeated Confirms nor Claims prolong it. How long that
// is, the store's constructor says: at least as long as a record may come again
// (retries, redrives, offsets set back). Extend sets the lease's end, it does not
// add to it. A store whose clock is coarse rounds up: a lease is never shorter
// than what was asked for. A lease that is not positive is an error.
//
// # Tokens
//
// Token tells a claim from every other claim of its key, for as long as the key
// may be heard of: counted, or 64 random bits; never 0.
//
// # Calls
//
// All methods are safe for concurrent use, also by several processes where the
// store is shared between them: an answered call is seen by every call that begins
// after it, from anywhere. They return soon after ctx has ended; a call whose ctx
// had ended before fails. An error other than ErrClaimLost leaves the outcome
// unknown: the call may have acted. After one of Claim the caller must not handle
// the record: it asks again, and if the lost call was granted a lease, the key is
// in progress until that ends.
type DedupeStore interface {
	// Claim asks for key, and holds it for lease where it is free. Claim.State is
	// the answer; only ClaimNew is held. It is asked again to learn what became of
	// a key in progress; asking changes nothing for the holder.
	Claim(ctx context.Context, key string, lease time.Duration) (Claim, error)

	// Extend lets the lease of c end after lease from now. It is called every
	// third of a lease for as long as the record's handler may run. ErrClaimLost:
	// somebody else may be handling the record; a holder that has not begun must
	// claim again.
	Extend(ctx context.Context, c Claim, lease time.Duration) error

	// Confirm makes the key done. It is called only after the handler returned
	// nil, also when the record's partition is gone by then, and is tried again
	// until it is answered. ErrClaimLost: somebody else took the key meanwhile, and
	// the record is handled twice; it is finished all the same.
	Confirm(ctx context.Context, c Claim) error

	// Release makes the key free. It is called only after the handler has returned
	// and will not be called again under this claim. No Extend of c may be under
	// way: one that arrives later would hold the key until its lease ends.
	Release(ctx context.Context, c Claim) error
}

// Claim is DedupeStore.Claim's answer. The other methods take it back unchanged;
// they need its Key and Token.
type Claim struct {
	Key   string
	State ClaimState
	Token uint64 // of this claim; 0 unless ClaimNew

	// Until is when the lease ends (ClaimNew: this one; ClaimInProgress: the
	// holder's, unless it is extended) or when the key is forgotten (ClaimDone;
	// zero where the store cannot tell), by this process' clock and about right. It
	// is good for logs and for choosing when to ask again: whether a claim is held
	// only the store knows.
	Until time.Time
}

// ClaimState is what a Claim has found.
type ClaimState int

const (
	// ClaimNew means: the key was free, and is the caller's now.
	ClaimNew ClaimState = iota
	// ClaimInProgress means: another claim holds the key. The record may be
	// neither handled nor finished; ask again later.
	ClaimInProgress
	// ClaimDone means: the key was confirmed. The record is a duplicate.
	ClaimDone
)

var claimNames = map[ClaimState]string{ //nolint:gochecknoglobals // a constant in all but type
	ClaimNew:        "new",
	ClaimInProgress: "in-progress",
	ClaimDone:       "done",
}

func (s ClaimState) String() string { return nameOf(claimNames, s, "claim") }

// granted says that c is a claim that was held once.
func (c Claim) granted() bool { return c.State == ClaimNew && c.Token != 0 }
