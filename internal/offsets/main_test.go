package offsets_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/kstage/kstage/internal/offsets"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// drains ends records and says whether the batch is drained by that.
func drains(b *offsets.Batch, from, end int) bool {
	_, drained := b.End(from, end)
	return drained
}
