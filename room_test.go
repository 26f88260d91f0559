package kstage_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kstage/kstage"
)

func TestProducerRoomIsGivenInOrder(t *testing.T) {
	t.Parallel()
	r := kstage.NewRoom(100, 100)
	require.True(t, r.Take(60))
	require.False(t, r.Take(50))
	big, small := r.Wait(50), r.Wait(10)
	require.False(t, r.Take(10), "it fits, but others were before it")
	r.Give(60)
	require.Equal(t, []int{big, small}, r.In())
	require.True(t, r.Take(40))
	records, bytes := r.Used()
	require.Equal(t, 3, records)
	require.EqualValues(t, 100, bytes)
}

// Room that comes free bit by bit is not given away bit by bit.
func TestProducerRoomIsCollected(t *testing.T) {
	t.Parallel()
	r := kstage.NewRoom(160, 1000)
	for range 160 {
		require.True(t, r.Take(1))
	}
	for range 20 {
		r.Wait(1)
	}
	for range 10 {
		r.Give(1)
	}
	require.Empty(t, r.In(), "less than a sixteenth")
	r.Give(1)
	require.Len(t, r.In(), 11)
	r.Give(1)
	require.Len(t, r.In(), 11)
	r.Admit()
	require.Len(t, r.In(), 12, "the pause is over")
}

func TestProducerRoomOfOneWhoLeaves(t *testing.T) {
	t.Parallel()
	r := kstage.NewRoom(10, 100)
	require.True(t, r.Take(60))
	big, small := r.Wait(50), r.Wait(10)
	require.False(t, r.Leave(big), "it has got nothing")
	require.Equal(t, []int{small}, r.In(), "who is behind it may fit")
	require.True(t, r.Leave(small), "it has got room, and gives it back")
	require.Zero(t, kstage.LeftRoom(t, 2000))
}

// Room that comes free at the moment somebody begins to wait for it is his.
func TestProducerRoomIsNotMissed(t *testing.T) {
	t.Parallel()
	kstage.MetRoom(t, 2000)
}

// What was told of is soon forgotten, whatever is stuck among it.
func TestProducerPagesAreSwept(t *testing.T) {
	t.Parallel()
	const size = 64
	most, left := kstage.MostPages(100_000, 50*size, 100_000)
	require.LessOrEqual(t, most, 50*3/2+3, "50 on their way")
	require.Equal(t, 1, left)
	_, left = kstage.MostPages(100*size, size, 10*size)
	require.Equal(t, 10, left, "those with a stuck record")
	require.Equal(t, 1, kstage.TurnedPages(t, 10*size, 10*size-1))
	require.Zero(t, kstage.TurnedPages(t, 10*size, 10*size), "nothing is kept while nothing comes")
}
