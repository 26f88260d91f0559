package kstage_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kstage/kstage"
)

// section returns the lines of README.md under a heading.
func section(t *testing.T, heading string) string {
	t.Helper()
	text, err := os.ReadFile("README.md")
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(text), "\n## "+heading+"\n")
	require.True(t, found, heading)
	rest, _, _ = strings.Cut(rest, "\n## ")
	return rest
}

func TestReadmeTellsTheDefaults(t *testing.T) {
	t.Parallel()
	row := regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (.*) \\|$")
	told := map[string]string{}
	for _, m := range row.FindAllStringSubmatch(section(t, "Defaults"), -1) {
		told[m[1]] = m[2]
	}
	require.Equal(t, kstage.Defaults(), told)
}

// A promise without a test is none.
func TestReadmeNamesTestsThatExist(t *testing.T) {
	t.Parallel()
	var code strings.Builder
	for _, pattern := range []string{"*_test.go", "internal/*/*_test.go", "kstagetest/*_test.go"} {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, f := range files {
			text, err := os.ReadFile(f)
			require.NoError(t, err)
			code.Write(text)
		}
	}
	names := regexp.MustCompile(`\b(?:Test|Fuzz)\w+`).FindAllString(section(t, "What it promises"), -1)
	require.Greater(t, len(names), 20)
	for _, name := range names {
		require.Contains(t, code.String(), "func "+name+"(t", name)
	}
}
