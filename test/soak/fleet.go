package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// fleet is the consumer processes: each that is killed is replaced at once.
type fleet struct {
	c       config
	brokers []string
	work    string // for their logs
	checker *checker

	mu       sync.Mutex // guards all below
	running  []*process
	started  int
	failures []error        // of processes that ended by themselves
	reading  sync.WaitGroup // of what they tell
}

// process is one consumer process.
type process struct {
	id    int
	cmd   *exec.Cmd
	ended chan struct{} // closed when it is gone and all it told was read
	how   string        // why it ends; written before it is signalled; guarded by fleet.mu
}

// start begins one more process in a place of the fleet.
func (f *fleet) start(place int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.started++
	p := &process{id: f.started, ended: make(chan struct{})}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	p.cmd = exec.Command(self, "-consumer", fmt.Sprintf("consumer-%d", p.id), "-brokers", strings.Join(f.brokers, ","),
		"-prefix", f.c.prefix, "-break", f.c.broken)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL} // an interrupt at the terminal is not for it
	log, err := os.Create(filepath.Join(f.work, fmt.Sprintf("consumer-%d.log", p.id)))
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // nothing is written by it here
	p.cmd.Stderr = log
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	f.running[place] = p
	f.reading.Go(func() { f.follow(p, out) })
	return nil
}

// follow reads what a process tells until its end.
func (f *fleet) follow(p *process, out io.Reader) {
	defer close(p.ended)
	r := bufio.NewReaderSize(out, 1<<20)
	for {
		e, err := readEvent(r)
		if err != nil {
			if !errors.Is(err, io.EOF) {
				f.note(fmt.Errorf("process %d: %w", p.id, err))
			}
			break
		}
		f.checker.told(p.id, e)
	}
	err := p.cmd.Wait()
	f.mu.Lock()
	how := p.how
	f.mu.Unlock()
	if how == "" || how != sigkill && err != nil {
		f.note(fmt.Errorf("process %d ended by itself (%s): %w", p.id, how, errors.Join(err, errors.New("see its log"))))
	}
	f.checker.ended(p.id, how)
}

func (f *fleet) note(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failures = append(f.failures, err)
}

const (
	sigkill = "SIGKILL"
	sigterm = "SIGTERM"
	atEnd   = "stopped at the end"
)

// replace ends the process of a place with a signal, waits for its end, and starts
// another one.
func (f *fleet) replace(place int, how string) error {
	f.signal(place, how)
	<-f.at(place).ended
	return f.start(place)
}

func (f *fleet) at(place int) *process {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.running[place]
}

func (f *fleet) signal(place int, how string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.running[place]
	p.how = how
	sig := syscall.SIGTERM
	if how == sigkill {
		sig = syscall.SIGKILL
	}
	_ = p.cmd.Process.Signal(sig) // gone already: its end is noted
}

// stop ends all in order; those that take too long are killed.
func (f *fleet) stop(ctx context.Context) error {
	for place := range f.running {
		f.signal(place, atEnd)
	}
	limited, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for place := range f.running {
		select {
		case <-f.at(place).ended:
		case <-limited.Done():
			f.signal(place, sigkill)
			f.note(fmt.Errorf("process %d did not end within a minute", f.at(place).id))
		}
	}
	f.reading.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	return errors.Join(f.failures...)
}
