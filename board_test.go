package kstage_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kstage/kstage"
)

// allKinds is every reason there is: the next value has no name.
func allKinds(t *testing.T) (kinds []kstage.ReasonKind) {
	t.Helper()
	for k := kstage.HealthNotJoined; k.String() != fmt.Sprintf("reason(%d)", k); k++ {
		kinds = append(kinds, k)
	}
	require.Len(t, kinds, 16)
	return kinds
}

func TestWhichReasonsHinderReady(t *testing.T) {
	t.Parallel()
	hinder := map[kstage.ReasonKind]bool{
		kstage.HealthNotJoined: true, kstage.HealthDisconnected: true, kstage.HealthAuthFailing: true, kstage.HealthTopicMissing: true,
		kstage.HealthHandOffFailing: true, kstage.HealthOversize: true, kstage.HealthDraining: true,
	}
	for _, k := range allKinds(t) {
		t.Run(k.String(), func(t *testing.T) {
			t.Parallel()
			b := kstage.NewBoard(nil)
			require.True(t, b.Health(true).Ready)
			b.Raise(kstage.HealthReason{Kind: k, Topic: "orders", Partition: 1})
			h := b.Health(true)
			require.Equal(t, !hinder[k], h.Ready)
			require.True(t, h.Live, "no reason makes a consumer not live")
			require.True(t, b.Clear(k, "orders", 1))
			require.Equal(t, kstage.Health{Live: true, Ready: true}, b.Health(true))
		})
	}
}

func TestLiveEndsWithAHangingLoopAndWithAnError(t *testing.T) {
	t.Parallel()
	b := kstage.NewBoard(nil)
	require.False(t, b.Health(false).Live, "the poll loop hangs")
	require.True(t, b.Health(true).Live, "and turns again")
	b.End(nil)
	require.True(t, b.Health(true).Live, "a clean end needs no restart")
	require.False(t, b.Health(true).Ready, "but nothing is consumed any more")
	failed := kstage.NewBoard(nil)
	failed.End(errors.New("fenced"))
	require.False(t, failed.Health(true).Live)
}

func TestWhenAPollLoopHangs(t *testing.T) {
	t.Parallel()
	now := time.Now()
	require.False(t, kstage.Stalled(time.Time{}, now, false), "it does not run")
	require.False(t, kstage.Stalled(now.Add(-time.Minute), now, false), "for a minute")
	require.True(t, kstage.Stalled(now.Add(-time.Minute-time.Millisecond), now, false), "for longer")
	require.False(t, kstage.Stalled(now.Add(-time.Hour), now, true), "a rebalance's callback runs")
}

func TestAReasonKeepsItsSinceAndGetsTheNewError(t *testing.T) {
	t.Parallel()
	b := kstage.NewBoard(nil)
	first, second := errors.New("first"), errors.New("second")
	require.True(t, b.Raise(kstage.HealthReason{Kind: kstage.HealthNotJoined, Partition: -1, Err: first}))
	since := b.Health(true).Reasons[0].Since
	require.WithinDuration(t, time.Now(), since, time.Second)
	require.False(t, b.Raise(kstage.HealthReason{Kind: kstage.HealthNotJoined, Partition: -1, Err: second}), "it is not new")
	require.Equal(t, []kstage.HealthReason{{Kind: kstage.HealthNotJoined, Partition: -1, Since: since, Err: second}}, b.Health(true).Reasons)
	b.Raise(kstage.HealthReason{Kind: kstage.HealthNotJoined, Partition: -1})
	require.Equal(t, second, b.Health(true).Reasons[0].Err, "who knows no error takes none away")
}

// Reasons of a record are told apart by offset, all others are one of a partition.
func TestWhatMakesAReasonOfItsOwn(t *testing.T) {
	t.Parallel()
	for _, k := range allKinds(t) {
		b := kstage.NewBoard(nil)
		b.Raise(kstage.HealthReason{Kind: k, Topic: "orders", Partition: 1, Offset: 1})
		again := b.Raise(kstage.HealthReason{Kind: k, Topic: "orders", Partition: 1, Offset: 2})
		ofRecord := k == kstage.HealthStuckRecord || k == kstage.HealthOversize || k == kstage.HealthGap
		require.Equal(t, ofRecord, again, k)
		require.True(t, b.Raise(kstage.HealthReason{Kind: k, Topic: "orders", Partition: 2, Offset: 1}), k)
		require.True(t, b.Raise(kstage.HealthReason{Kind: k, Topic: "events", Partition: 1, Offset: 1}), k)
	}
}

func TestReplaceMakesAListTheWholeOfAKind(t *testing.T) {
	t.Parallel()
	missing := func(topic string) kstage.HealthReason {
		return kstage.HealthReason{Kind: kstage.HealthTopicMissing, Topic: topic, Partition: -1}
	}
	b := kstage.NewBoard(nil)
	b.Raise(kstage.HealthReason{Kind: kstage.HealthPaused, Partition: -1})
	require.Equal(t, []kstage.HealthReason{missing("a"), missing("b")}, b.Replace(kstage.HealthTopicMissing, missing("a"), missing("b")))
	require.Equal(t, []kstage.HealthReason{missing("c")}, b.Replace(kstage.HealthTopicMissing, missing("b"), missing("c")), "only what is new is returned")
	require.Equal(t, []string{"topic-missing b", "topic-missing c", "paused"}, reasonsOf(b.Health(true)))
	require.Empty(t, b.Replace(kstage.HealthTopicMissing))
	require.Equal(t, []string{"paused"}, reasonsOf(b.Health(true)), "another kind is left alone")
}

func reasonsOf(h kstage.Health) (ss []string) {
	for _, r := range h.Reasons {
		ss = append(ss, r.String())
	}
	return ss
}

func TestAPartitionsReasonsAreClearedByKind(t *testing.T) {
	t.Parallel()
	b := kstage.NewBoard(nil)
	for o := range int64(3) {
		b.Raise(kstage.HealthReason{Kind: kstage.HealthStuckRecord, Topic: "orders", Partition: 1, Offset: o})
	}
	b.Raise(kstage.HealthReason{Kind: kstage.HealthStuckRecord, Topic: "orders", Partition: 2})
	b.Raise(kstage.HealthReason{Kind: kstage.HealthGap, Topic: "orders", Partition: 1})
	b.ClearPartition("orders", 1, kstage.HealthStuckRecord, kstage.HealthFetchFailing)
	require.Equal(t, []string{"stuck-record orders/2@0", "gap orders/1@0"}, reasonsOf(b.Health(true)))
}

func TestTheListingIsSortedAndBounded(t *testing.T) {
	t.Parallel()
	b := kstage.NewBoard(nil)
	b.Raise(kstage.HealthReason{Kind: kstage.HealthDraining, Partition: -1})
	for o := int64(99); o >= 0; o-- {
		for p := range int32(2) {
			b.Raise(kstage.HealthReason{Kind: kstage.HealthStuckRecord, Topic: "orders", Partition: 1 - p, Offset: o})
		}
		b.Raise(kstage.HealthReason{Kind: kstage.HealthOversize, Topic: "events", Partition: 1, Offset: o})
	}
	var want []string
	for p := range 2 {
		for o := range 10 {
			want = append(want, fmt.Sprintf("stuck-record orders/%d@%d", p, o))
		}
	}
	for o := range 10 {
		want = append(want, fmt.Sprintf("oversize events/1@%d", o))
	}
	require.Equal(t, append(want, "draining"), reasonsOf(b.Health(true)))
}

// events collects what a board tells.
type events struct {
	mu   sync.Mutex
	told []string
}

func (e *events) hear(s kstage.StateEvent) {
	e.mu.Lock()
	defer e.mu.Unlock()
	text := "+" + s.Reason.String()
	if s.Cleared {
		text = "-" + s.Reason.String()
	}
	e.told = append(e.told, text)
}

func (e *events) all() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]string(nil), e.told...)
}

// count says how often an event was told.
func (e *events) count(text string) (n int) {
	for _, t := range e.all() {
		if t == text {
			n++
		}
	}
	return n
}

func TestChangesAreToldInOrderAndToTheLast(t *testing.T) {
	t.Parallel()
	var e events
	b := kstage.NewBoard(e.hear)
	b.Raise(kstage.HealthReason{Kind: kstage.HealthNotJoined, Partition: -1}) // before there is anybody to tell
	end := b.Tell()
	var want []string
	for i := range 1000 {
		r := kstage.HealthReason{Kind: kstage.HealthPaused, Topic: fmt.Sprint(i), Partition: -1}
		b.Raise(r)
		b.Raise(r) // not new: not told
		b.Clear(r.Kind, r.Topic, r.Partition)
		b.Clear(r.Kind, r.Topic, r.Partition)
		want = append(want, "+"+r.String(), "-"+r.String())
	}
	b.Raise(kstage.HealthReason{Kind: kstage.HealthDraining, Partition: -1})
	b.End(nil)
	end()
	want = append([]string{"+not-joined"}, append(want, "+draining", "-draining")...)
	require.Equal(t, want, e.all())
}

// A listener may use the Consumer, also while the last of it is told.
func TestAListenerMayCallBack(t *testing.T) {
	t.Parallel()
	var e events
	var b kstage.Board
	b = kstage.NewBoard(func(s kstage.StateEvent) {
		e.hear(s)
		if s.Reason.Kind == kstage.HealthNotJoined {
			require.NotEmpty(t, b.Health(true).Reasons)
			b.Raise(kstage.HealthReason{Kind: kstage.HealthPaused, Partition: -1})
		}
	})
	end := b.Tell()
	b.End(nil)
	end()
	require.Equal(t, []string{"+not-joined", "+paused"}, e.all())
}

// Whoever reads the board while others write on it sees a whole.
func TestTheBoardIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	var e events
	b := kstage.NewBoard(e.hear)
	end := b.Tell()
	var writers sync.WaitGroup
	for i := range 8 {
		writers.Go(func() {
			r := kstage.HealthReason{Kind: kstage.HealthFetchFailing, Topic: "orders", Partition: int32(i)}
			for range 200 {
				b.Raise(r)
				b.RaiseFor(time.Minute, kstage.HealthReason{Kind: kstage.HealthGap, Topic: "orders", Partition: int32(i)})
				b.Health(true)
				b.ClearPartition("orders", int32(i), kstage.HealthGap)
				b.Clear(r.Kind, r.Topic, r.Partition)
			}
		})
	}
	writers.Wait()
	end()
	require.Empty(t, b.Health(true).Reasons)
	for i := range 8 {
		require.Equal(t, 200, e.count(fmt.Sprintf("+fetch-failing orders/%d", i)))
		require.Equal(t, 200, e.count(fmt.Sprintf("-fetch-failing orders/%d", i)))
	}
}
