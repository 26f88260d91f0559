package lanes

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestFifoIsAQueue(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var f fifo[int]
		var want []int
		for n, push := range rapid.SliceOf(rapid.IntRange(-3, 3)).Draw(t, "push, or pop where not positive") {
			for range push * 10 {
				f.push(n)
				want = append(want, n)
			}
			for ; push <= 0 && len(want) > 0; push++ {
				require.Equal(t, want[0], *f.front())
				require.Equal(t, want[0], f.pop())
				want = want[1:]
			}
			require.Equal(t, len(want), f.len())
		}
	})
}

// A queue that is never empty keeps a few elements' memory, not that of all it ever held.
func TestFifoStaysSmall(t *testing.T) {
	t.Parallel()
	var f fifo[*int]
	f.push(new(int))
	for range 10_000 {
		f.push(new(int))
		f.pop()
	}
	require.Less(t, cap(f.buf), 100)
	for _, p := range f.buf[:f.head] {
		require.Nil(t, p, "an element that left is kept alive")
	}
	for range 1000 {
		f.push(new(int))
	}
	for f.len() > 0 {
		f.pop()
	}
	f.shrink()
	require.Zero(t, cap(f.buf))
}
