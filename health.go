package kstage

import "time"

type (
	Health struct {
		Live, Ready bool
		Reasons     []HealthReason
	}
	HealthReason struct {
		Kind      ReasonKind
		Topic     string
		Partition int32
		Offset    int64
		Since     time.Time
		Err       error
	}
	ReasonKind int
)

const (
	HealthNotJoined ReasonKind = iota + 1
	HealthStuckRecord
	HealthHandOffFailing // Topic, Partition are the target's
	HealthCommitFailing
	HealthDedupeFailing
	HealthTopicMissing
	HealthTopicRecreated
	HealthAuthFailing
	HealthGap // Err is a *GapError
	HealthOversize
	HealthForeignRecords
	HealthFetchFailing
	HealthPaused
	HealthDraining
	HealthDisconnected
	HealthCallbackPanic
)
