package main

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestEventsRoundTrip(t *testing.T) {
	t.Parallel()
	e := event{Kind: failed, Stage: 2, Attempt: 300, Partition: 5, Epoch: 7, Offset: 1 << 40, Seq: 9, At: 10, Due: 11}
	var b bytes.Buffer
	require.NoError(t, e.write(&b))
	require.Equal(t, eventSize, b.Len())
	got, err := readEvent(&b)
	require.NoError(t, err)
	require.Equal(t, e, got)
}

// counts are what the verdict says of violations.
func counts(c *checker) map[string]int {
	lost, _ := c.open()
	return map[string]int{"lost": lost, "early": c.early, "reordered": c.reordered, "repeated": c.repeated}
}

func TestChecker(t *testing.T) {
	t.Parallel()
	second := int64(time.Second)
	call := func(kind eventKind, seq, offset, at int64) event {
		return event{Kind: kind, Attempt: 1, Seq: seq, Offset: offset, At: at}
	}
	later := func(e event, stage uint8, due int64) event {
		e.Stage, e.Due = stage, due
		return e
	}
	again := func(e event) event { e.Attempt = 2; return e }
	for name, c := range map[string]struct {
		events []event
		want   map[string]int
	}{
		"handled": {[]event{call(begun, 10, 1, 0), call(succeeded, 10, 1, 0)}, map[string]int{}},
		"lost":    {nil, map[string]int{"lost": 1}},
		"cancelled and handled again": {[]event{
			call(begun, 10, 1, 0), call(cancelled, 10, 1, 0), again(call(begun, 10, 1, 0)), call(succeeded, 10, 1, 0),
		}, map[string]int{}},
		"twice": {[]event{
			call(begun, 10, 1, 0), call(succeeded, 10, 1, 0), again(call(begun, 10, 1, 0)), call(succeeded, 10, 1, 0),
		}, map[string]int{"repeated": 1}},
		"key in order": {[]event{
			call(begun, 10, 1, 0), call(succeeded, 10, 1, 0), call(begun, 10+keys, 2, 0), call(succeeded, 10+keys, 2, 0),
		}, map[string]int{}},
		"key out of order": {[]event{
			call(begun, 10+keys, 2, 0), call(succeeded, 10+keys, 2, 0), call(begun, 10, 1, 0), call(succeeded, 10, 1, 0),
		}, map[string]int{"reordered": 1}},
		"key twice at once": {[]event{
			call(begun, 10, 1, 0), call(begun, 10+keys, 2, 0), call(succeeded, 10, 1, 0),
		}, map[string]int{"reordered": 1}},
		"in time": {[]event{
			call(begun, 10, 1, 0), call(failed, 10, 1, second), later(call(begun, 10, 1, 2*second), 1, 2*second), later(call(succeeded, 10, 1, 2*second), 1, 0),
		}, map[string]int{}},
		"before its header says": {[]event{
			later(call(begun, 10, 1, 9*second), 1, 9*second+1), later(call(succeeded, 10, 1, 0), 1, 0),
		}, map[string]int{"early": 1}},
		"before the delay has passed": {[]event{
			call(begun, 10, 1, 0), call(failed, 10, 1, second), later(call(begun, 10, 1, 2*second-1), 1, second), later(call(succeeded, 10, 1, 0), 1, 0),
		}, map[string]int{"early": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newChecker()
			k.answered(10, nil)
			k.answered(11, errors.New("not acknowledged"))
			for _, e := range c.events {
				k.told(1, e)
			}
			want := map[string]int{"lost": 0, "early": 0, "reordered": 0, "repeated": 0}
			for kind, n := range c.want {
				want[kind] = n
			}
			require.Equal(t, want, counts(k))
			_, broken := k.verdict(0, 0)
			require.Equal(t, want["lost"]+want["early"]+want["reordered"] > 0, broken)
		})
	}
}

func TestCheckerOfDeadLetters(t *testing.T) {
	t.Parallel()
	k := newChecker()
	k.answered(200, nil)                                               // is to be dead
	k.told(1, event{Kind: succeeded, Seq: 200, Attempt: 1, Offset: 1}) // and must not be handled instead
	require.Equal(t, 1, counts(k)["lost"])
	k.deadLetter(200)
	require.Equal(t, map[string]int{"lost": 0, "early": 0, "reordered": 0, "repeated": 0}, counts(k))
	k.deadLetter(200)
	require.Equal(t, 1, counts(k)["repeated"])
}

func TestSilences(t *testing.T) {
	t.Parallel()
	s, at := newSilences(), time.Unix(1000, 0)
	s.note(1, at)
	s.note(1, at.Add(3*time.Second))
	s.note(1, at.Add(4*time.Second))
	s.note(2, at.Add(4*time.Second))
	require.Equal(t, 3*time.Second, s.worst([]int32{1, 2}, at.Add(4*time.Second)))
	require.Equal(t, time.Duration(0), s.worst([]int32{2}, at.Add(4*time.Second)))
	require.Equal(t, 5*time.Second, s.worst([]int32{2}, at.Add(9*time.Second)))
	s.reset()
	require.Equal(t, time.Duration(0), s.worst([]int32{1}, at.Add(4*time.Second)))
}
