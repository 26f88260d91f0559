package kstage_test

import (
	"testing"

	"go.uber.org/goleak"
)

// Nothing kstage or its clients start may outlive Run.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
