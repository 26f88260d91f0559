package sim

import (
	"io"
	"net"
	"os"
	"time"
)

// stream is one direction of a connection. It is guarded by network.mu.
type stream struct {
	n        *network
	link     *link
	up       bool // from the client to the broker
	queue    []segment
	ended    bool  // the writer has closed: after what is queued comes EOF
	err      error // aborted: nothing more is read or written
	deadline time.Time
	wake     chan struct{} // non-nil: a reader waits; closed by whoever changes something
}

// segment is what one write has written.
type segment struct {
	arrives time.Time
	data    []byte
}

func (s *stream) held() bool {
	if s.up {
		return s.link.holdsUp
	}
	return s.link.holdsDown
}

// wakeUp lets the reader look again. n.mu is held, as for all below but read and write.
func (s *stream) wakeUp() {
	if s.wake != nil {
		close(s.wake)
		s.wake = nil
	}
}

func (s *stream) end() {
	s.ended = true
	s.wakeUp()
}

func (s *stream) abort(err error) {
	if s.err == nil {
		s.err, s.queue = err, nil
	}
	s.wakeUp()
}

func (s *stream) write(b []byte) (int, error) {
	s.n.mu.Lock()
	defer s.n.mu.Unlock()
	if s.err != nil || s.ended {
		return 0, resetError("write")
	}
	s.queue = append(s.queue, segment{time.Now().Add(baseLatency + s.link.latency), append([]byte(nil), b...)})
	s.wakeUp()
	return len(b), nil
}

func (s *stream) read(b []byte) (int, error) {
	s.n.mu.Lock()
	defer s.n.mu.Unlock()
	for {
		now := time.Now()
		switch {
		case s.err != nil:
			return 0, s.err
		case !s.deadline.IsZero() && !now.Before(s.deadline):
			return 0, &net.OpError{Op: "read", Net: "tcp", Err: os.ErrDeadlineExceeded}
		case len(s.queue) > 0 && !s.held() && !now.Before(s.queue[0].arrives):
			return s.take(b), nil
		case len(s.queue) == 0 && s.ended:
			return 0, io.EOF
		}
		s.await(now)
	}
}

func (s *stream) take(b []byte) int {
	n := copy(b, s.queue[0].data)
	if s.queue[0].data = s.queue[0].data[n:]; len(s.queue[0].data) == 0 {
		s.queue = s.queue[1:]
	}
	return n
}

// await lets go of n.mu until something has changed, or time has come.
func (s *stream) await(now time.Time) {
	until := s.deadline
	if len(s.queue) > 0 && !s.held() && (until.IsZero() || s.queue[0].arrives.Before(until)) {
		until = s.queue[0].arrives
	}
	wake := make(chan struct{})
	s.wake = wake
	s.n.mu.Unlock()
	defer s.n.mu.Lock()
	if until.IsZero() {
		<-wake
		return
	}
	t := time.NewTimer(until.Sub(now))
	defer t.Stop()
	select {
	case <-wake:
	case <-t.C:
	}
}
