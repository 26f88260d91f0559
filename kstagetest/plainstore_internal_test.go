package kstagetest

import (
	"context"
	"crypto/md5"
	"errors"
	"hash/crc32"
	"hash/fnv"
	"strings"
	"sync"
	"time"

	"github.com/kstage/kstage"
)

// plainStore is the contract in its plainest form, and with one flaw, chosen by name.
type plainStore struct {
	flaw   string
	ttl    time.Duration
	mu     *sync.Mutex // guards keys and tokens
	keys   map[string]plainKey
	tokens *uint64
	turn   chan struct{} // a process' own lock, where that is the flaw: one that may be held while time passes
}

type plainKey struct {
	token uint64
	done  bool
	late  bool // extended when its lease had ended
	until time.Time
}

func newPlainStore(flaw string, ttl time.Duration) *plainStore {
	return &plainStore{flaw: flaw, ttl: ttl, mu: &sync.Mutex{}, keys: map[string]plainKey{}, tokens: new(uint64), turn: make(chan struct{}, 1)}
}

// handle is the store as another process sees it.
func (s *plainStore) handle() *plainStore {
	o := *s
	if s.has("each process has its own keys") {
		o.keys = map[string]plainKey{}
	}
	o.turn = make(chan struct{}, 1)
	return &o
}

func (s *plainStore) has(flaw string) bool { return s.flaw == flaw }

// gap lets others go on where a flaw has one.
func (s *plainStore) gap(flaw string) {
	if s.has(flaw) {
		s.mu.Unlock()
		<-time.After(time.Microsecond)
		s.mu.Lock()
	}
}

func (s *plainStore) Claim(ctx context.Context, key string, lease time.Duration) (kstage.Claim, error) {
	if err := s.usable(ctx, lease); err != nil {
		if s.has("a failed Claim is done") {
			s.keys[key] = plainKey{done: true, until: time.Now().Add(s.ttl)}
		}
		return kstage.Claim{}, err
	}
	if s.has("each process has its own lock") {
		s.turn <- struct{}{}
		defer func() { <-s.turn }()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id := s.id(key)
	now := time.Now()
	k, taken := s.look(id, now)
	if taken && !s.has("the last who asks gets the key") {
		return s.found(key, id, k, now), nil
	}
	s.gap("claims are not atomic")
	if k.token != 0 {
		s.gap("taking over is not atomic")
	}
	s.gap("each process has its own lock")
	s.keys[id] = plainKey{token: s.token(), until: now.Add(s.lease(lease))}
	c := kstage.Claim{Key: key, State: kstage.ClaimNew, Token: s.keys[id].token, Until: now.Add(lease)}
	switch s.flaw {
	case "Until is missing":
		c.Until = time.Time{}
	case "the key is missing":
		c.Key = ""
	case "the token is missing":
		c.Token = 0
	}
	return c, nil
}

func (s *plainStore) usable(ctx context.Context, lease time.Duration) error {
	if lease <= 0 && !s.has("any lease will do") {
		return errors.New("a lease must be positive")
	}
	if s.has("a failure is a lost claim") && ctx.Err() != nil {
		return kstage.ErrClaimLost
	}
	if s.has("contexts are ignored") {
		return nil
	}
	return ctx.Err()
}

func (s *plainStore) lease(d time.Duration) time.Duration {
	switch s.flaw {
	case "leases never end":
		return 1 << 62
	case "leases are a third too short":
		return d * 2 / 3
	case "leases are rounded down to 10 s":
		return d.Truncate(10 * time.Second)
	case "leases are twice too long":
		return 2 * d
	}
	return d
}

func (s *plainStore) token() uint64 {
	*s.tokens++
	switch s.flaw {
	case "one token for all":
		return 1
	case "tokens pass through 53 bits":
		return *s.tokens << 60
	}
	return *s.tokens
}

func (s *plainStore) sameToken(a, b uint64) bool {
	switch s.flaw {
	case "tokens are not compared":
		return true
	case "tokens pass through 53 bits":
		return float64(a) == float64(b)
	case "tokens pass through 32 bits":
		return uint32(a) == uint32(b)
	}
	return a == b
}

// id is what the store takes for the key.
func (s *plainStore) id(key string) string {
	switch s.flaw {
	case "keys are cut at 255 bytes":
		return key[:min(255, len(key))]
	case "keys end at NUL":
		id, _, _ := strings.Cut(key, "\x00")
		return id
	case "a NUL panics":
		if strings.Contains(key, "\x00") {
			panic("NUL")
		}
	case "keys are lower case":
		return strings.ToLower(key)
	case "keys are trimmed":
		return strings.TrimSpace(key)
	case "keys become UTF-8":
		return strings.ToValidUTF8(key, "\ufffd")
	case "keys are hashed to 64 bits":
		h := fnv.New64a()
		h.Write([]byte(key))
		return string(h.Sum(nil))
	case "keys are hashed to 32 bits":
		return string(rune(crc32.ChecksumIEEE([]byte(key)) >> 12))
	case "keys are hashed without a secret":
		h := md5.Sum([]byte(key))
		return string(h[:])
	}
	return key
}

func (s *plainStore) look(id string, now time.Time) (k plainKey, taken bool) {
	k, known := s.keys[id]
	return k, known && now.Before(k.until)
}

// found answers a Claim of a taken key.
func (s *plainStore) found(key, id string, k plainKey, now time.Time) kstage.Claim {
	c := kstage.Claim{Key: key, State: kstage.ClaimInProgress, Until: k.until}
	if k.done != s.has("in progress and done are the same") || k.done {
		c.State = kstage.ClaimDone
	}
	switch {
	case s.has("done is told as in progress"):
		c.State = kstage.ClaimInProgress
	case s.has("asking prolongs the lease") && !k.done, s.has("asking prolongs what is remembered") && k.done:
		k.until = later(k.until, now.Add(s.ttl))
		s.keys[id] = k
	case s.has("who asks gets the token"):
		c.Token = k.token
	case s.has("asking takes the holder's claim away") && !k.done:
		k.token = s.token()
		s.keys[id] = k
	}
	return c
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (s *plainStore) Extend(ctx context.Context, c kstage.Claim, lease time.Duration) error {
	if err := s.usable(ctx, lease); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k, free, err := s.mine(c, "Extend")
	switch {
	case err != nil:
		return err
	case k.done && s.has("Extend makes a done key's memory as short as a lease"):
		k.until = time.Now().Add(lease)
		s.keys[s.id(c.Key)] = k
		return nil
	case k.done && !s.has("Extend makes a done key held"), s.has("Extend does nothing"):
		return nil
	}
	until := time.Now().Add(lease)
	switch {
	case s.has("Extend adds") && !free:
		until = k.until.Add(lease)
	case s.has("Extend never shortens") && !free:
		until = later(until, k.until)
	}
	if free {
		s.gap("a late Extend is not atomic")
	}
	s.keys[s.id(c.Key)] = plainKey{token: c.Token, late: free || k.late, until: until}
	return nil
}

func (s *plainStore) Confirm(ctx context.Context, c kstage.Claim) error {
	if err := s.usable(ctx, 1); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k, free, err := s.mine(c, "Confirm")
	switch {
	case err != nil:
		return err
	case k.done && s.has("Confirm cannot be repeated"), k.late && s.has("what was extended late cannot be confirmed"):
		return kstage.ErrClaimLost
	case k.done && !s.has("confirming again prolongs what is remembered"):
		return nil
	case s.has("Confirm forgets the key"):
		delete(s.keys, s.id(c.Key))
		return nil
	}
	if free {
		s.gap("a late Confirm is not atomic")
	}
	if s.has("Confirm takes two steps") {
		delete(s.keys, s.id(c.Key))
		s.gap(s.flaw)
	}
	s.keys[s.id(c.Key)] = plainKey{token: c.Token, done: true, until: s.remembered(c, k)}
	return nil
}

func (s *plainStore) remembered(c kstage.Claim, k plainKey) time.Time {
	switch s.flaw {
	case "done ends with the lease":
		return k.until
	case "done is never forgotten":
		return time.Now().Add(1 << 62)
	case "done is forgotten too early":
		return time.Now().Add(s.ttl / 2)
	case "what is remembered counts from the claim":
		return c.Until.Add(s.ttl - 2*s.ttl) // the suite claims for twice the ttl
	}
	return time.Now().Add(s.ttl)
}

func (s *plainStore) Release(ctx context.Context, c kstage.Claim) error {
	if err := s.usable(ctx, 1); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k, free, err := s.mine(c, "Release")
	switch {
	case err != nil:
		return err
	case free && s.has("Release cannot be repeated"):
		return kstage.ErrClaimLost
	case k.done && !s.has("Release forgets a done key"), s.has("Release does nothing"):
		return nil
	}
	delete(s.keys, s.id(c.Key))
	return nil
}

// mine finds c's key for a call of its holder. free: nobody has it now.
func (s *plainStore) mine(c kstage.Claim, call string) (k plainKey, free bool, err error) {
	if c.State != kstage.ClaimNew && !s.has("any claim will do") || c.Token == 0 && !s.has("tokens are not compared") {
		return k, false, kstage.ErrClaimLost
	}
	k, taken := s.look(s.id(c.Key), time.Now())
	switch {
	case !taken && s.has("a late "+call+" fails") && k.token != 0:
		return k, true, kstage.ErrClaimLost
	case !taken && s.has("a key that is free is lost") && k.token != c.Token:
		return k, true, kstage.ErrClaimLost
	case !taken:
		return plainKey{}, true, nil
	case !s.sameToken(k.token, c.Token) && !s.has("a lost "+call+" succeeds"):
		return k, false, kstage.ErrClaimLost
	}
	return k, false, nil
}
