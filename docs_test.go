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
	return sectionOf(t, "README.md", heading)
}

func sectionOf(t *testing.T, file, heading string) string {
	t.Helper()
	text, err := os.ReadFile(file)
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
	code := sources(t, "*_test.go", "internal/*/*_test.go", "kstagetest/*_test.go")
	for file, headings := range map[string][]string{"README.md": {"What it promises"}, "DESIGN.md": {"9. Environment, health, programs", "14. Planted mistakes"}} {
		for _, heading := range headings {
			names := regexp.MustCompile(`\b(?:Test|Fuzz)\w+`).FindAllString(sectionOf(t, file, heading), -1)
			require.Greater(t, len(names), 15, heading)
			for _, name := range names {
				require.Contains(t, code, "func "+name+"(t", name)
			}
		}
	}
}

// The documentation's examples are there, and so are the files it links.
func TestDocsNameExamplesAndFilesThatExist(t *testing.T) {
	t.Parallel()
	code := sources(t, "*_test.go")
	docs, err := filepath.Glob("docs/*.md")
	require.NoError(t, err)
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	require.NotEmpty(t, docs)
	for _, file := range docs {
		require.Contains(t, string(readme), "]("+file+")")
	}
	for _, file := range append(docs, "README.md", "SECURITY.md", "CONTRIBUTING.md") {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, name := range regexp.MustCompile(`\bExample\w+`).FindAllString(string(text), -1) {
			require.Contains(t, code, "func "+name+"()", file)
		}
		for _, link := range regexp.MustCompile(`\]\(([^):]+)\)`).FindAllStringSubmatch(string(text), -1) {
			_, err := os.Stat(filepath.Join(filepath.Dir(file), link[1]))
			require.NoError(t, err, file)
		}
	}
}

// What the reasons of Health mean stands in docs/troubleshooting.md.
func TestEveryReasonIsInTroubleshooting(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("docs", "troubleshooting.md"))
	require.NoError(t, err)
	design := sectionOf(t, "DESIGN.md", "9. Environment, health, programs")
	for _, k := range allKinds(t) {
		require.Contains(t, string(text), "| `"+k.String()+"`")
		require.Contains(t, design, "`"+k.String()+"`")
	}
}

func sources(t *testing.T, patterns ...string) string {
	t.Helper()
	var code strings.Builder
	for _, pattern := range patterns {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, f := range files {
			text, err := os.ReadFile(f)
			require.NoError(t, err)
			code.Write(text)
		}
	}
	return code.String()
}
