// Package rig is what the benchmarks share: they run each side in a process of its own,
// against a broker in another one, and compare what the sides have used.
package rig

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"

	"github.com/twmb/franz-go/pkg/kfake"
)

// Child is this program in another role: with the flags that it was started with, and
// after them the given ones, which win.
func Child(flags ...string) *exec.Cmd {
	var all []string
	flag.Visit(func(f *flag.Flag) { all = append(all, "-"+f.Name+"="+f.Value.String()) })
	cmd := exec.Command(os.Args[0], append(all, flags...)...)
	cmd.Stderr = os.Stderr
	return cmd
}

// Serve is the work of a broker's process: it prints its address and serves until it is
// killed.
func Serve(opts ...kfake.Opt) error {
	cluster, err := kfake.NewCluster(append(opts, kfake.NumBrokers(1))...)
	if err != nil {
		return err
	}
	defer cluster.Close()
	fmt.Println(cluster.ListenAddrs()[0])
	select {}
}

// StartBroker starts a child that calls Serve. stop ends it.
func StartBroker() (addr string, stop func(), err error) {
	cmd := Child("-role=broker")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	addr, err = bufio.NewReader(out).ReadString('\n')
	if err != nil {
		stop()
		return "", nil, fmt.Errorf("the broker said nothing: %w", err)
	}
	return addr[:len(addr)-1], stop, nil
}

// Run runs a child in a role and reads the result that it reports.
func Run(role, addr string, result any, more ...string) error {
	text, err := Child(append([]string{"-role=" + role, "-addr=" + addr}, more...)...).Output()
	if err != nil {
		return fmt.Errorf("%s: %w", role, err)
	}
	return json.Unmarshal(text, result)
}

// Report tells the parent process what was measured.
func Report(result any) error { return json.NewEncoder(os.Stdout).Encode(result) }
