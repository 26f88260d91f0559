package lanes_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

// 2,000 records a second of 0.9 ms each are too many for a walk, yet too few for
// a worker each: the partition has to go by key and stay so.
func TestLagStaysSmall(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 20, 90} {
		t.Run(fmt.Sprint("fetches of ", size), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				assert.Less(t, worstLag(size, 10_000, 64), 100)
			})
		})
	}
}

// worstLag returns how many records were left of earlier fetches when one came, at worst.
func worstLag(size, records, workers int) (worst int) {
	s := newSupply(1, 1000, workers, func(*load, int) time.Duration { <-time.After(900 * time.Microsecond); return 0 })
	for range records / size {
		s.send(size, size)
		<-time.After(time.Duration(size) * time.Second / 2000)
		synctest.Wait()
		worst = max(worst, s.trackers[0].Unfinished())
	}
	s.drain()
	<-s.lanes[0].Fence()
	return worst
}
