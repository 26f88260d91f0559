package sim

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

// FAULTS.md names every kind of fault, none that is not, and tests that exist.
func TestFaultsAreListed(t *testing.T) {
	t.Parallel()
	list, err := os.ReadFile("../FAULTS.md")
	require.NoError(t, err)
	named := map[string]bool{}
	for _, m := range regexp.MustCompile("sim:([a-z-]+)`").FindAllStringSubmatch(string(list), -1) {
		named[m[1]] = true
	}
	for _, k := range faultKinds() {
		require.True(t, named[k.name], "%s is not in FAULTS.md", k.name)
		delete(named, k.name)
	}
	require.Empty(t, named, "in FAULTS.md, and no kind of fault")
	tests := testsOf(t)
	for _, m := range regexp.MustCompile("`(Test[A-Za-z0-9]+)`").FindAllStringSubmatch(string(list), -1) {
		require.True(t, tests[m[1]], "%s is in FAULTS.md, and is no test", m[1])
	}
	require.GreaterOrEqual(t, len(regexp.MustCompile(`(?m)^\| \d+ \|`).FindAll(list, -1)), 40)
}

// testsOf are the names of the module's tests, whatever their build tags.
func testsOf(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, pattern := range []string{"../../*_test.go", "../../internal/*/*_test.go", "*_test.go"} {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, f := range files {
			text, err := os.ReadFile(f)
			require.NoError(t, err)
			for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllStringSubmatch(string(text), -1) {
				names[m[1]] = true
			}
		}
	}
	return names
}
