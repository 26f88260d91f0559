//go:build race

package kstage_test

import "testing"

func TestHeapWithOneStuckRecordPerBatch(t *testing.T) {
	t.Parallel()
	t.Skip("SKIP: the race detector multiplies the heap; run: go test -run TestHeap .")
}
