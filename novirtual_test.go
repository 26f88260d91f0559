//go:build !synctests

package kstage_test

import "testing"

// Most tests of what happens over time are not in this run.
func TestInVirtualTime(t *testing.T) {
	t.Parallel()
	t.Skip("SKIP: tests in virtual time need a build tag; run: go test -tags synctests ./...")
}
