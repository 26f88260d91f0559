package sim

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// network is TCP in memory, with what networks do wrong: latency, resets, data that
// is held back in one direction or both, refused dials, clients that are cut off.
// Its errors have the shape of the system's, because clients classify by it.
type network struct {
	mu        sync.Mutex // guards all below, and all links and streams; never held while waiting
	listeners map[int]*acceptor
	links     map[linkName]*link
	conns     []*conn // the clients' ends that are open, in the order of dialing
	cut       map[string]bool
}

// linkName is the way from a client to a broker's port.
type linkName struct {
	client string
	port   int
}

// link is how the way is at the moment.
type link struct {
	latency            time.Duration
	holdsUp, holdsDown bool // data does not arrive, until it does again
	refuses            bool // dials fail
}

func newNetwork() *network {
	return &network{listeners: map[int]*acceptor{}, links: map[linkName]*link{}, cut: map[string]bool{}}
}

const (
	dialTimeout = 10 * time.Second // the client gives a custom dialer none
	// baseLatency must be more than nothing, or a client that asks again without a pause
	// keeps time standing still: kgo does for as long as a metadata request is unanswered
	// and a partition's leader has moved.
	baseLatency = time.Millisecond
	refusedTook = time.Millisecond // a refused dial must take time: the client may dial again without a pause, and virtual time would stand still
)

// dialer is what the named client dials with.
func (n *network) dialer(client string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, address string) (net.Conn, error) {
		port, err := portOf(address)
		if err != nil {
			return nil, err
		}
		limited, cancel := context.WithTimeoutCause(ctx, dialTimeout, dialError(port, os.ErrDeadlineExceeded))
		defer cancel()
		for {
			now, l := n.look(client, port)
			switch {
			case l == nil || now.refuses:
				return nil, pause(limited, refusedTook, dialError(port, os.NewSyscallError("connect", syscall.ECONNREFUSED)))
			case now.holdsUp || now.holdsDown:
				if err := pause(limited, time.Second, nil); err != nil { // as TCP does
					return nil, err
				}
				continue
			}
			if err := pause(limited, baseLatency+now.latency, nil); err != nil {
				return nil, err
			}
			return n.connect(limited, client, port, l)
		}
	}
}

// pause waits and returns err, or why ctx has ended.
func pause(ctx context.Context, d time.Duration, err error) error {
	if d <= 0 {
		return err
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return err
	}
}

func portOf(address string) (int, error) {
	_, p, err := net.SplitHostPort(address)
	if err != nil {
		return 0, fmt.Errorf("address %q: %w", address, err)
	}
	return strconv.Atoi(p)
}

func dialError(port int, err error) error {
	return &net.OpError{Op: "dial", Net: "tcp", Addr: brokerAddr(port), Err: err}
}

func resetError(op string) error {
	return &net.OpError{Op: op, Net: "tcp", Err: os.NewSyscallError(op, syscall.ECONNRESET)}
}

type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }

func brokerAddr(port int) address { return address(fmt.Sprintf("127.0.0.1:%d", port)) }

// look returns how the way to a port is, and who listens; nil: nobody.
func (n *network) look(client string, port int) (link, *acceptor) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := *n.link(linkName{client, port})
	now.refuses = now.refuses || n.cut[client]
	return now, n.listeners[port]
}

// link returns the state of a way. n.mu is held.
func (n *network) link(name linkName) *link {
	if n.links[name] == nil {
		n.links[name] = &link{}
	}
	return n.links[name]
}

func (n *network) connect(ctx context.Context, client string, port int, l *acceptor) (net.Conn, error) {
	n.mu.Lock()
	if n.cut[client] { // meanwhile
		n.mu.Unlock()
		return nil, dialError(port, os.NewSyscallError("connect", syscall.ECONNREFUSED))
	}
	name := linkName{client, port}
	up, down := &stream{n: n, link: n.link(name), up: true}, &stream{n: n, link: n.link(name)}
	mine := &conn{name: name, in: down, out: up, local: address(client), remote: brokerAddr(port)}
	theirs := &conn{name: name, in: up, out: down, local: brokerAddr(port), remote: address(client)}
	n.conns = append(n.conns, mine)
	n.mu.Unlock()
	select {
	case l.accepted <- theirs:
		return mine, nil
	case <-l.closed:
		_ = mine.Close()
		return nil, dialError(port, os.NewSyscallError("connect", syscall.ECONNREFUSED))
	case <-ctx.Done():
		_ = mine.Close()
		return nil, context.Cause(ctx)
	}
}

// change changes the ways of some clients to some ports, and wakes who waits there.
func (n *network) change(clients []string, ports []int, f func(*link)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range clients {
		for _, p := range ports {
			f(n.link(linkName{c, p}))
		}
	}
	for _, c := range n.conns {
		c.in.wakeUp()
		c.out.wakeUp()
	}
}

// reset ends the connections that match, both ends at once, with all that is on its way.
func (n *network) reset(match func(linkName) bool) (count int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.conns {
		if match(c.name) {
			c.in.abort(resetError("read"))
			c.out.abort(resetError("read"))
			count++
		}
	}
	return count
}

// cutOff takes a client off the network for good.
func (n *network) cutOff(client string) {
	n.mu.Lock()
	n.cut[client] = true
	n.mu.Unlock()
	n.reset(func(l linkName) bool { return l.client == client })
}

// open counts a client's connections.
func (n *network) open(client string) (count int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.conns {
		if c.name.client == client {
			count++
		}
	}
	return count
}

// acceptor implements net.Listener.
type acceptor struct {
	n        *network
	port     int
	accepted chan net.Conn
	closed   chan struct{} // closed by Close
	once     sync.Once
}

// listen is kfake's ListenFn.
func (n *network) listen(_, address string) (net.Listener, error) {
	port, err := portOf(address)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[port] != nil {
		return nil, fmt.Errorf("port %d is in use", port)
	}
	n.listeners[port] = &acceptor{n: n, port: port, accepted: make(chan net.Conn), closed: make(chan struct{})}
	return n.listeners[port], nil
}

// Accept implements net.Listener.
func (l *acceptor) Accept() (net.Conn, error) {
	select {
	case c := <-l.accepted:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *acceptor) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.n.mu.Lock()
		defer l.n.mu.Unlock()
		delete(l.n.listeners, l.port)
	})
	return nil
}

// Addr implements net.Listener.
func (l *acceptor) Addr() net.Addr { return brokerAddr(l.port) }

// conn is one end of a connection.
type conn struct {
	name          linkName
	in, out       *stream
	local, remote address
}

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) { return c.in.read(b) }

// Write implements net.Conn. It never blocks.
func (c *conn) Write(b []byte) (int, error) { return c.out.write(b) }

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn: nothing is ever late.
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.in.n.mu.Lock()
	defer c.in.n.mu.Unlock()
	c.in.deadline = t
	c.in.wakeUp()
	return nil
}

// Close implements net.Conn.
func (c *conn) Close() error {
	n := c.in.n
	n.mu.Lock()
	defer n.mu.Unlock()
	c.out.end()
	c.in.abort(net.ErrClosed)
	n.conns = slices.DeleteFunc(n.conns, func(o *conn) bool { return o == c })
	return nil
}
