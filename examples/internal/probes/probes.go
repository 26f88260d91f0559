// Package probes serves the health of an example.
package probes

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/kstage/kstage"
)

// Prober is a Consumer or a Producer.
type Prober interface {
	LivenessHandler() http.Handler
	ReadinessHandler() http.Handler
	Health() kstage.Health
}

// Serve answers /livez and /readyz on HEALTH_ADDR, or on standard where that is not set,
// until the func it returns is called. It returns the address, too.
func Serve(p Prober, standard string) (addr string, stop func(), err error) {
	addr = os.Getenv("HEALTH_ADDR")
	if addr == "" {
		addr = standard
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return "", nil, fmt.Errorf("the health endpoint (set HEALTH_ADDR to another address): %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/livez", p.LivenessHandler())
	mux.Handle("/readyz", p.ReadinessHandler())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	return l.Addr().String(), func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = server.Shutdown(ctx)
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			fmt.Fprintln(os.Stderr, "health endpoint:", err)
		}
	}, nil
}
