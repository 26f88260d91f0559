package sim

import (
	"context"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// pairOf connects a client to a listener.
func pairOf(t *testing.T, n *network) (client, server net.Conn) {
	t.Helper()
	l, err := n.listen("tcp", "127.0.0.1:9001")
	require.NoError(t, err)
	accepted := make(chan net.Conn, 1)
	go func() {
		c, _ := l.Accept()
		accepted <- c
	}()
	client, err = n.dialer("c")(t.Context(), "tcp", "127.0.0.1:9001")
	require.NoError(t, err)
	return client, <-accepted
}

// What networks do wrong, ours does when it is told to.
//
//nolint:thelper // what is passed on are the tests
func TestNetwork(t *testing.T) {
	t.Parallel()
	ports := []int{9001}
	inVirtualTime := func(name string, test func(t *testing.T, n *network, c, s net.Conn)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork()
				c, s := pairOf(t, n)
				test(t, n, c, s)
			})
		})
	}
	read := func(t *testing.T, c net.Conn) string {
		t.Helper()
		b := make([]byte, 8)
		k, err := c.Read(b)
		require.NoError(t, err)
		return string(b[:k])
	}
	inVirtualTime("latency", func(t *testing.T, n *network, c, s net.Conn) {
		n.change([]string{"c"}, ports, func(l *link) { l.latency = time.Second })
		start := time.Now()
		_, _ = c.Write([]byte("a"))
		require.Equal(t, "a", read(t, s))
		require.Equal(t, time.Second+baseLatency, time.Since(start))
	})
	inVirtualTime("held back, and let go", func(t *testing.T, n *network, c, s net.Conn) {
		n.change([]string{"c"}, ports, func(l *link) { l.holdsUp = true })
		_, _ = c.Write([]byte("a"))
		_, _ = s.Write([]byte("b"))
		require.Equal(t, "b", read(t, c), "the other direction is open")
		require.NoError(t, s.SetReadDeadline(time.Now().Add(time.Minute)))
		_, err := s.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		n.change([]string{"c"}, ports, func(l *link) { l.holdsUp = false })
		require.NoError(t, s.SetReadDeadline(time.Time{}))
		require.Equal(t, "a", read(t, s))
	})
	inVirtualTime("end", func(t *testing.T, n *network, c, s net.Conn) {
		_, _ = c.Write([]byte("a"))
		require.Equal(t, 1, n.open("c"))
		require.NoError(t, c.Close())
		require.Zero(t, n.open("c"))
		require.Equal(t, "a", read(t, s), "what was written before arrives")
		_, err := s.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
	})
	inVirtualTime("reset", func(t *testing.T, n *network, c, s net.Conn) {
		_, _ = c.Write([]byte("a"))
		require.Equal(t, 1, n.reset(func(l linkName) bool { return l.client == "c" }))
		_, err := s.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		_, err = c.Write([]byte("b"))
		require.ErrorIs(t, err, syscall.ECONNRESET)
	})
	inVirtualTime("cut off", func(t *testing.T, n *network, _, _ net.Conn) {
		n.cutOff("c")
		_, err := n.dialer("c")(t.Context(), "tcp", "127.0.0.1:9001")
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
	})
	inVirtualTime("a dial whose packets are lost", func(t *testing.T, n *network, _, _ net.Conn) {
		n.change([]string{"c"}, ports, func(l *link) { l.holdsDown = true })
		start := time.Now()
		_, err := n.dialer("c")(t.Context(), "tcp", "127.0.0.1:9001")
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, dialTimeout, time.Since(start))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = n.dialer("c")(ctx, "tcp", "127.0.0.1:9001")
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

// The same seed is the same plan; another one is another.
func TestPlanIsPure(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		require.Equal(t, PlanOf(seed, Settings{}), PlanOf(seed, Settings{}))
		require.NotEqual(t, PlanOf(seed, Settings{}).Records, PlanOf(seed+1, Settings{}).Records)
	}
}
