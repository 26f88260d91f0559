//go:build synctests

package kstage_test

import (
	"testing"
	"testing/synctest"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// virtual runs a test in virtual time on an embedded broker. A goroutine that
// the test or the library leaves behind fails it.
func virtual(t *testing.T, test func(w *world), opts ...kfake.Opt) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var net kfake.VirtualNetwork
		reach := []kgo.Opt{kgo.Dialer(net.DialContext)}
		test(newFakeWorld(t, reach, append([]kfake.Opt{kfake.Ports(9001), kfake.ListenFn(net.Listen)}, opts...)...))
	})
}
