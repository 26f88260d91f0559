package kstage

import (
	"bufio"
	"crypto/rand"
	"io"
	"sync"

	"github.com/google/uuid"
)

// newID is who makes the message ids; nil: nobody.
func (c *producerConfig) newID() func() []byte {
	switch {
	case c.ownIDs:
		return newUUIDs().next
	case c.messageIDs == nil:
		return nil
	}
	return func() []byte { return []byte(c.messageIDs()) }
}

// uuids makes the message ids of a Producer: UUIDs of version 7, which sort by time.
// Safe for concurrent use.
type uuids struct {
	mu     sync.Mutex // guards random
	random *bufio.Reader
}

func newUUIDs() *uuids {
	return &uuids{random: bufio.NewReaderSize(rand.Reader, 4<<10)} // a call of the kernel for 256 of them
}

// Read implements io.Reader with random bytes.
func (u *uuids) Read(b []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return io.ReadFull(u.random, b)
}

// next is a new id. It cannot fail: crypto/rand ends the process rather than fail.
func (u *uuids) next() []byte {
	id, err := uuid.NewV7FromReader(u)
	if err != nil {
		panic("kstage: BUG: no random numbers: " + err.Error())
	}
	text, _ := id.MarshalText() // never fails
	return text
}
