// Command replay runs a wasip1 test binary so that a run is a function of its
// arguments: the guest's randomness comes from a seed, its clock goes on by a
// microsecond with each look, and it has one thread. With -twice it runs twice, and
// fails where the output differs.
package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
	"github.com/tetratelabs/wazero/sys"
)

func main() {
	seed := flag.Uint64("runtime-seed", 1, "of what the guest's runtime draws: select, maps, timers; another one is another schedule")
	twice := flag.Bool("twice", false, "run twice and compare what is printed")
	flag.Parse()
	if flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "usage: replay [-twice] [-runtime-seed N] BINARY ARGUMENT...")
		os.Exit(2)
	}
	status, err := replay(*seed, *twice, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "replay:", err)
		os.Exit(1)
	}
	os.Exit(status)
}

func replay(seed uint64, twice bool, args []string) (status int, err error) {
	ctx := context.Background() //nolint:forbidigo // a program makes its own context
	m, err := compile(ctx, args[0])
	if err != nil {
		return 0, err
	}
	defer func() { _ = m.runtime.Close(ctx) }()
	var first, second bytes.Buffer
	status, err = m.run(ctx, seed, args, io.MultiWriter(os.Stdout, &first))
	if err != nil || !twice {
		return status, err
	}
	again, err := m.run(ctx, seed, args, &second)
	if err != nil {
		return 0, err
	}
	if again != status || !bytes.Equal(first.Bytes(), second.Bytes()) {
		return 0, fmt.Errorf("the second run was another one:\n%s", second.Bytes())
	}
	fmt.Println("the second run was the same")
	return status, nil
}

// machine is a compiled guest.
type machine struct {
	runtime wazero.Runtime
	code    wazero.CompiledModule
}

func compile(ctx context.Context, path string) (*machine, error) {
	guest, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	cache, err := wazero.NewCompilationCacheWithDir(filepath.Join(filepath.Dir(path), "wazero"))
	if err != nil {
		return nil, err
	}
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigCompiler().WithCompilationCache(cache))
	if _, err := wasi_snapshot_preview1.Instantiate(ctx, r); err != nil {
		return nil, err
	}
	code, err := r.CompileModule(ctx, guest)
	if err != nil {
		return nil, err
	}
	return &machine{r, code}, nil
}

// run runs the guest once, and returns its exit status.
func (m *machine) run(ctx context.Context, seed uint64, args []string, out io.Writer) (int, error) {
	now := int64(1_000_000_000_000)
	tick := func() int64 { now += 1000; return now }
	config := wazero.NewModuleConfig().WithName("").WithArgs(args...).WithStdout(out).WithStderr(os.Stderr).
		WithFSConfig(wazero.NewFSConfig().WithReadOnlyDirMount(".", "/")).
		WithRandSource(source{rand.NewPCG(seed, 0)}).
		WithNanotime(tick, 1).
		WithWalltime(func() (int64, int32) {
			n := tick()
			return 1_700_000_000 + n/1e9, int32(n % 1e9)
		}, 1).
		WithNanosleep(func(ns int64) { now += ns })
	instance, err := m.runtime.InstantiateModule(ctx, m.code, config)
	if instance != nil {
		_ = instance.Close(ctx)
	}
	if exit, ok := err.(*sys.ExitError); ok { //nolint:errorlint // wazero returns it as it is
		return int(exit.ExitCode()), nil
	}
	return 0, err
}

// source is randomness from a seed.
type source struct{ r *rand.PCG }

// Read implements io.Reader.
func (s source) Read(b []byte) (int, error) {
	var w [8]byte
	for i := 0; i < len(b); i += len(w) {
		binary.LittleEndian.PutUint64(w[:], s.r.Uint64())
		copy(b[i:], w[:])
	}
	return len(b), nil
}
