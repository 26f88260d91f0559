//go:build synctests

package kstage_test

import "testing"

func TestVirtualSmoke(t *testing.T) {
	virtual(t, func(w *world) {
		w.topic("orders", 3)
	})
}
