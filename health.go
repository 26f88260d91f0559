package kstage

import (
	"fmt"
	"time"
)

// Health is how a Consumer or a Producer is at one moment.
type Health struct {
	// Live is false when only a restart helps: the poll loop has not turned for a
	// minute outside a rebalance, or Run has ended with an error.
	Live bool
	// Ready is false before the group was joined, while one of the reasons marked
	// below keeps records from being consumed as they should, and after Run. An
	// assignment is not needed: a member without partitions is ready.
	Ready bool
	// Reasons are what there is to say, ordered by kind, group, topic, partition and
	// offset. Of the reasons that name a record, the ten lowest offsets of each
	// partition are listed. Empty: all is well.
	Reasons []HealthReason
}

// HealthReason is one thing that is not as it should be.
type HealthReason struct {
	Kind      ReasonKind
	Topic     string    // empty: the consumer as a whole
	Partition int32     // -1: the topic as a whole
	Group     string    // of HealthNotJoined, and of HealthAuthFailing where it is the group's; else empty
	Offset    int64     // of the record, for HealthStuckRecord, HealthOversize and HealthGap
	Since     time.Time // when it became so
	Err       error     // nil where there is none
}

func (r HealthReason) String() string {
	s := r.Kind.String()
	if r.Group != "" {
		s += " " + r.Group
	}
	if r.Topic != "" {
		s += " " + r.Topic
	}
	if r.Partition >= 0 {
		s += fmt.Sprintf("/%d", r.Partition)
	}
	if r.Kind.ofRecord() {
		s += fmt.Sprintf("@%d", r.Offset)
	}
	if r.Err != nil {
		s += ": " + r.Err.Error()
	}
	return s
}

// ReasonKind is what kind of thing is not as it should be.
type ReasonKind int

const (
	// HealthNotJoined means: not a member of the group, which is named. Not ready.
	HealthNotJoined ReasonKind = iota + 1
	// HealthStuckRecord means: the partition's oldest unfinished record has been that for
	// longer than WithStuckAfter, or a record is blocked by WithoutDLQ(Block).
	HealthStuckRecord
	// HealthHandOffFailing means: copies to a retry topic or the dead-letter topic cannot be written; Topic and Partition are the
	// target's. Not ready.
	HealthHandOffFailing
	// HealthCommitFailing means: the partition's offset could not be committed, and is tried again.
	HealthCommitFailing
	// HealthDedupeFailing means: the dedupe store fails.
	HealthDedupeFailing
	// HealthTopicMissing means: the topic does not exist, or cannot be seen. Not ready.
	HealthTopicMissing
	// HealthTopicRecreated means: the topic was deleted and created again. For 5 minutes.
	HealthTopicRecreated
	// HealthAuthFailing means: an authorization, or a Producer's credentials, are refused. After
	// a minute Run ends with the error; a Producer fails its records and asks on. Not ready.
	HealthAuthFailing
	// HealthGap means: records were deleted before they were read; Err is a *GapError. For
	// 5 minutes.
	HealthGap
	// HealthOversize means: a record is too large for its dead-letter topic, or for its
	// retry topic where there is no dead-letter topic, and stays unfinished. Not ready.
	HealthOversize
	// HealthForeignRecords means: a retry topic holds records of another group, which
	// are passed over. For 5 minutes.
	HealthForeignRecords
	// HealthFetchFailing means: the partition's records cannot be read.
	HealthFetchFailing
	// HealthPaused means: Consumer.Pause was called.
	HealthPaused
	// HealthDraining means: Run is ending, or the Producer is closing or closed. Not ready.
	HealthDraining
	// HealthDisconnected means: no broker can be reached. Not ready.
	HealthDisconnected
	// HealthCallbackPanic means: a function of an option, the collector or the store has
	// panicked; Err says which. It stays.
	HealthCallbackPanic
)

var reasonNames = map[ReasonKind]string{ //nolint:gochecknoglobals // a constant in all but type
	HealthNotJoined:      "not-joined",
	HealthStuckRecord:    "stuck-record",
	HealthHandOffFailing: "hand-off-failing",
	HealthCommitFailing:  "commit-failing",
	HealthDedupeFailing:  "dedupe-failing",
	HealthTopicMissing:   "topic-missing",
	HealthTopicRecreated: "topic-recreated",
	HealthAuthFailing:    "auth-failing",
	HealthGap:            "gap",
	HealthOversize:       "oversize",
	HealthForeignRecords: "foreign-records",
	HealthFetchFailing:   "fetch-failing",
	HealthPaused:         "paused",
	HealthDraining:       "draining",
	HealthDisconnected:   "disconnected",
	HealthCallbackPanic:  "callback-panic",
}

func (k ReasonKind) String() string { return nameOf(reasonNames, k, "reason") }

// nameOf is an enum's String.
func nameOf[K ~int](names map[K]string, k K, kind string) string {
	if s, ok := names[k]; ok {
		return s
	}
	return fmt.Sprintf("%s(%d)", kind, int(k))
}

// ofRecord says that there may be several of a partition, told apart by offset.
func (k ReasonKind) ofRecord() bool {
	return k == HealthStuckRecord || k == HealthOversize || k == HealthGap
}

// hindersReady says that a consumer with such a reason is not ready.
func (k ReasonKind) hindersReady() bool {
	switch k {
	case HealthNotJoined, HealthHandOffFailing, HealthTopicMissing, HealthAuthFailing, HealthOversize, HealthDraining, HealthDisconnected:
		return true
	case HealthStuckRecord, HealthCommitFailing, HealthDedupeFailing, HealthTopicRecreated, HealthGap,
		HealthForeignRecords, HealthFetchFailing, HealthPaused, HealthCallbackPanic:
		return false
	}
	return false
}
