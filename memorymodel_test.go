package kstage_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kstage/kstage"
)

// memoryModel is a memory store beside a plain list of what it knows, in virtual
// time. What is over is not in the list.
type memoryModel struct {
	*ids
	limit   int
	ttl     time.Duration
	list    []modelID // the done ones are in the order of their first Confirm
	granted []kstage.Claim
	evicted uint64
}

type modelID struct {
	key   string
	token uint64
	done  bool
	until time.Time
}

func TestMemoryStoreIsAsItsModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		inBubble(t, func() {
			m := &memoryModel{
				limit: rapid.IntRange(1, 6).Draw(rt, "limit"),
				ttl:   time.Duration(rapid.IntRange(1, 60).Draw(rt, "ttl")) * time.Second,
			}
			m.ids = newIDs(rt, m.ttl, m.limit)
			rt.Repeat(map[string]func(*rapid.T){
				"claim": m.claim,
				"call":  m.call,
				"time":  func(t *rapid.T) { after(seconds(t, 0, 30)) },
				"":      m.check,
			})
		})
	})
}

func seconds(t *rapid.T, from, to int) time.Duration {
	return time.Duration(rapid.IntRange(from, to).Draw(t, "seconds")) * time.Second
}

func (m *memoryModel) forgetWhatIsOver() {
	m.list = slices.DeleteFunc(m.list, func(id modelID) bool { return !id.until.After(time.Now()) })
}

func (m *memoryModel) find(key string) int {
	return slices.IndexFunc(m.list, func(id modelID) bool { return id.key == key })
}

// put makes room for an id, and says whether there is any.
func (m *memoryModel) put(id modelID) bool {
	if i := m.find(id.key); i >= 0 {
		m.list = slices.Delete(m.list, i, i+1)
	} else if len(m.list) == m.limit {
		oldest := slices.IndexFunc(m.list, func(id modelID) bool { return id.done })
		if oldest < 0 {
			return false
		}
		m.list = slices.Delete(m.list, oldest, oldest+1)
		m.evicted++
	}
	m.list = append(m.list, id)
	return true
}

func (m *memoryModel) claim(t *rapid.T) {
	m.forgetWhatIsOver()
	key, lease := rapid.StringMatching(`[a-j]`).Draw(t, "key"), seconds(t, 1, 40)
	c, err := m.Claim(background(), key, lease)
	if i := m.find(key); i >= 0 {
		require.NoError(t, err)
		want := map[bool]kstage.ClaimState{false: kstage.ClaimInProgress, true: kstage.ClaimDone}[m.list[i].done]
		require.Equal(t, kstage.Claim{Key: key, State: want, Until: m.list[i].until}, sameClock(c, m.list[i].until))
		return
	}
	until := time.Now().Add(lease)
	if !m.put(modelID{key: key, token: c.Token, until: until}) {
		require.Error(t, err)
		return
	}
	require.NoError(t, err)
	require.NotZero(t, c.Token)
	require.Equal(t, kstage.Claim{Key: key, Token: c.Token, Until: until}, sameClock(c, until))
	m.granted = append(m.granted, c)
}

// sameClock gives c the other spelling of its moment.
func sameClock(c kstage.Claim, until time.Time) kstage.Claim {
	if c.Until.Equal(until) {
		c.Until = until
	}
	return c
}

func (m *memoryModel) call(t *rapid.T) {
	if len(m.granted) == 0 {
		t.Skip("no claim yet")
	}
	m.forgetWhatIsOver()
	c := rapid.SampledFrom(m.granted).Draw(t, "claim")
	name := rapid.SampledFrom([]string{"Extend", "Confirm", "Release"}).Draw(t, "call")
	lease := seconds(t, 1, 40)
	err := map[string]func() error{
		"Extend":  func() error { return m.Extend(background(), c, lease) },
		"Confirm": func() error { return m.Confirm(background(), c) },
		"Release": func() error { return m.Release(background(), c) },
	}[name]()
	i := m.find(c.Key)
	switch {
	case i >= 0 && m.list[i].token != c.Token:
		require.ErrorIs(t, err, kstage.ErrClaimLost)
	case i >= 0 && m.list[i].done:
		require.NoError(t, err)
	default:
		ok := m.follow(name, c, lease)
		require.Equal(t, ok, err == nil, "%v", err)
		require.False(t, errors.Is(err, kstage.ErrClaimLost))
	}
}

// follow has the call's effect, and says whether there was room for it.
func (m *memoryModel) follow(name string, c kstage.Claim, lease time.Duration) bool {
	if name == "Release" {
		m.list = slices.DeleteFunc(m.list, func(id modelID) bool { return id.key == c.Key })
		return true
	}
	id := modelID{key: c.Key, token: c.Token, until: time.Now().Add(lease)}
	if name == "Confirm" {
		id.done, id.until = true, time.Now().Add(m.ttl)
	}
	return m.put(id)
}

func (m *memoryModel) check(t *rapid.T) {
	_, err := m.Check()
	require.NoError(t, err)
	require.Equal(t, m.evicted, m.Evicted())
}
