package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Each mistake can still be planted: its text is in its file, once, and changes it.
func TestMutantsApply(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	for _, m := range mutants() {
		require.False(t, names[m.name], m.name)
		names[m.name] = true
		text, err := os.ReadFile(filepath.Join("..", "..", m.file))
		require.NoError(t, err)
		planted, err := m.plant(string(text))
		require.NoError(t, err)
		require.NotEqual(t, string(text), planted, m.name)
		require.NotEmpty(t, m.breaks, m.name)
	}
	require.GreaterOrEqual(t, len(names), 20)
}
