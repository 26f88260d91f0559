package lanes

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each position is either taken or left to stop: never both, never neither.
func TestClaimStop(t *testing.T) {
	t.Parallel()
	const positions = 2000
	for round := range 5000 {
		var c claim
		c.reset(0, positions)
		taken := make(chan int32)
		go func() { taken <- takeAll(&c) }()
		for at := int32(1 + round%(positions-100)); c.next() < at; {
			runtime.Gosched()
		}
		next, end := c.stop()
		require.Equal(t, min(next, end), <-taken, "round %d: stop said %d of %d", round, next, end)
	}
}

// takeAll takes positions until there are none, and counts them. -1: they came out of order.
func takeAll(c *claim) (n int32) {
	for {
		i, ok := c.take()
		switch {
		case !ok:
			return n
		case i != n:
			return -1
		}
		n++
	}
}

func TestClaimStopTwice(t *testing.T) {
	t.Parallel()
	var c claim
	c.reset(3, 10)
	_, ok := c.take()
	require.True(t, ok)
	next, end := c.stop()
	require.Equal(t, [2]int32{4, 10}, [2]int32{next, end})
	next, _ = c.stop()
	require.Equal(t, int32(4), next)
	_, ok = c.take()
	require.False(t, ok)
}

// A claim that ran out is past its end by one, stopped or not.
func TestClaimRunsOut(t *testing.T) {
	t.Parallel()
	var c claim
	c.reset(0, 2)
	require.Equal(t, int32(2), takeAll(&c))
	next, end := c.stop()
	require.Equal(t, [2]int32{3, 2}, [2]int32{next, end})
}
