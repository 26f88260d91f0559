package kstage_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
)

// given is a copy that the client has and has not answered.
type given struct {
	r       *kgo.Record
	promise func(*kgo.Record, error)
}

// desk is a hand-off whose copies the test answers all at once.
type desk struct {
	post *kstage.Post

	mu    sync.Mutex
	given []given
}

func newDesk() *desk {
	d := &desk{}
	d.post = kstage.NewPost(kstage.OversizeBlock, func(r *kgo.Record, promise func(*kgo.Record, error)) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.given = append(d.given, given{r: r, promise: promise})
	})
	d.post.Counted(1)
	return d
}

// answer returns how many there were.
func (d *desk) answer(err error) (n int) {
	synctest.Wait()
	d.mu.Lock()
	all := d.given
	d.given = nil
	d.mu.Unlock()
	for _, p := range all {
		p.promise(p.r, err)
	}
	return len(all)
}

// After a failure one copy goes ahead alone: were the target to work again while
// the client is still being given a flight, the later ones would overtake the first.
func TestOutboxTriesAFailedTargetWithOneCopy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		defer d.post.Stop()
		a, offsets := d.post.Assign(0, 0, 6)
		for _, o := range offsets {
			require.True(t, a.Bury(o, nil, "text"))
		}
		require.Equal(t, 1, d.answer(nil)) // the first found nothing under way
		require.Equal(t, 5, d.answer(kgo.ErrRecordTimeout))
		require.Zero(t, d.answer(nil))
		<-time.After(time.Second)
		require.Equal(t, 1, d.answer(kgo.ErrRecordTimeout))
		require.False(t, d.post.Health().Ready)
		<-time.After(time.Second)
		require.Equal(t, 1, d.answer(nil))
		require.Empty(t, d.post.Health().Reasons)
		require.Equal(t, 4, d.answer(nil))
		require.Empty(t, a.Open())
		require.Empty(t, d.post.Boxes())
	})
}

// A record that is skipped while its copy is on the way is finished once,
// whatever the answer.
func TestOutboxSkipInFlight(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{"written": nil, "failed": kgo.ErrRecordTimeout, "too large": kerr.MessageTooLarge} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newDesk()
				defer d.post.Stop()
				a, _ := d.post.Assign(0, 0, 1)
				require.True(t, a.Bury(0, []byte("value"), "text"))
				require.False(t, a.Skip(0)) // nothing has failed yet
				require.Equal(t, 1, d.answer(kgo.ErrRecordTimeout))
				<-time.After(time.Second)
				synctest.Wait()
				require.True(t, a.Skip(0))
				require.False(t, a.Skip(0))
				require.Zero(t, a.Flying())
				require.Empty(t, d.post.Health().Reasons) // nobody waits for the target
				require.Equal(t, 1, d.answer(err))
				<-time.After(time.Hour)
				require.Zero(t, d.answer(nil))
				require.Empty(t, d.post.Boxes())
				require.Zero(t, a.Held())
			})
		})
	}
}

// That the client has no room says nothing of the target: Health is silent, and
// the copy goes again soon, however often.
func TestOutboxFullClientIsNoFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		defer d.post.Stop()
		a, _ := d.post.Assign(0, 0, 1)
		require.True(t, a.Bury(0, nil, "text"))
		for range 10 {
			require.Equal(t, 1, d.answer(kgo.ErrMaxBuffered))
			require.Empty(t, d.post.Health().Reasons)
			require.Zero(t, a.Flying())
			<-time.After(250 * time.Millisecond)
		}
		require.Equal(t, 1, d.answer(nil))
		require.Zero(t, a.Held())
	})
}
