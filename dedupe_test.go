package kstage_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kstage/kstage"
)

func TestClaimStateNames(t *testing.T) {
	t.Parallel()
	names := map[kstage.ClaimState]string{
		kstage.ClaimNew: "new", kstage.ClaimInProgress: "in-progress", kstage.ClaimDone: "done", kstage.ClaimState(9): "claim(9)",
	}
	for s, name := range names {
		require.Equal(t, name, s.String())
	}
}
