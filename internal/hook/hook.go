// Package hook opens kstage to its simulator (test/sim), and to nobody else: with
// the build tag sim it can widen races and shift a consumer's wall clock. Without
// the tag its functions are empty, or time.Now, and inlined to nothing.
package hook

// Point names a place where a race would be narrow.
type Point int

// The points. The simulator tells after a run which of them were reached.
const (
	AfterPoll      Point = iota // records were returned by a poll, and are not registered with their windows
	BeforeQueue                 // records are registered with their window, and not queued
	AfterHandler                // a handler has returned, and its record is not judged
	BeforeConfirm               // a handler has returned nil, and the dedupe store does not know
	AfterConfirm                // the store knows, and the record is not finished
	BeforeLend                  // the store has lent a claim, and the window does not know
	BeforePark                  // a record is held, and its key does not wait yet
	BeforeDepart                // a record is held as leaving, and its copy was not given to the hand-off
	BeforeProduce               // a flight was chosen, and not given to the client
	BeforeResolve               // a copy was acknowledged, and its record is not finished
	BeforeCommit                // marks were read, and no commit was sent
	AfterCommit                 // a commit was answered, and the windows do not know
	BeforeGate                  // a commit is due, and the gate not entered
	BeforeGive                  // partitions were drained, and are not given back
	BeforeForget                // partitions were committed for the last time, and are not forgotten
	BeforeOpen                  // partitions were assigned, and have no windows
	BeforeRenew                 // the claims to renew were chosen, and none was
	BeforeEnd                   // a shutdown has drained, and not begun to commit
	BeforeLeave                 // all is committed and forgotten, and the group was not left
	NumberOfPoints              // how many there are
)

func (p Point) String() string {
	return [NumberOfPoints]string{
		"after-poll", "before-queue", "after-handler", "before-confirm", "after-confirm", "before-lend", "before-park",
		"before-depart", "before-produce", "before-resolve", "before-commit", "after-commit", "before-gate", "before-give",
		"before-forget", "before-open", "before-renew", "before-end", "before-leave",
	}[p]
}
