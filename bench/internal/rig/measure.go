package rig

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"slices"
	"syscall"
	"time"
)

// Result is what one run has measured.
type Result struct {
	Records int64
	CPU     float64 // ns a record
	Rate    float64 // records a second
	Allocs  float64 // a record
	GCs     uint32
}

// Measure measures this process for so long: count says how many records are through.
func Measure(d time.Duration, count func() int64) (Result, error) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	n, cpu, start := count(), CPU(), time.Now()
	<-time.After(d)
	n, cpu = count()-n, CPU()-cpu
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	if n == 0 {
		return Result{}, errors.New("no record came through")
	}
	return Result{
		Records: n, CPU: float64(cpu) / float64(n), Rate: float64(n) / took.Seconds(),
		Allocs: float64(after.Mallocs-before.Mallocs) / float64(n), GCs: after.NumGC - before.NumGC,
	}, nil
}

// CPU is what this process has used.
func CPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Ballast is live heap of so many MiB, as a service has it, until release: all sides
// then collect garbage equally often, which is half of what a bare loop costs.
func Ballast(mib int) (release func()) {
	live := make([]byte, mib<<20)
	return func() { runtime.KeepAlive(live) }
}

// Profile writes a CPU profile to a file until stop; no name, no profile.
func Profile(name string) (stop func(), err error) {
	if name == "" {
		return func() {}, nil
	}
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		_ = f.Close()
		return nil, err
	}
	return func() { pprof.StopCPUProfile(); _ = f.Close() }, nil
}

// Show prints the runs of one side.
func Show(name string, rs []Result) {
	column := func(of func(Result) float64) (low, mid, high float64) {
		var vs []float64
		for _, r := range rs {
			vs = append(vs, of(r))
		}
		return Spread(vs)
	}
	low, mid, high := column(func(r Result) float64 { return r.CPU })
	_, rate, _ := column(func(r Result) float64 { return r.Rate })
	_, allocs, _ := column(func(r Result) float64 { return r.Allocs })
	_, gcs, _ := column(func(r Result) float64 { return float64(r.GCs) })
	fmt.Printf("%-7s CPU ns/record min %.0f, median %.0f, max %.0f; %.2f M records/s; %.4f allocations/record; %.0f collections\n",
		name, low, mid, high, rate/1e6, allocs, gcs)
}

// Spread is the least, the median and the greatest of some values.
func Spread(vs []float64) (low, mid, high float64) {
	s := slices.Sorted(slices.Values(vs))
	return s[0], (s[(len(s)-1)/2] + s[len(s)/2]) / 2, s[len(s)-1]
}
