package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	// proof is a package and tests of it, as runbooks and SECURITY.md name them.
	proof    = regexp.MustCompile("`([a-z/]+)`((?:,? (?:Test\\w+|\\w+\\.txtar))+)")
	testName = regexp.MustCompile(`Test\w+|\w+\.txtar`)
	alert    = regexp.MustCompile(`- alert: (\w+)`)
)

// TestRunbooks: there is a page for each of the eleven likely failures, each says what is seen, how to check
// and what to do, and every test that it names exists; so do those of SECURITY.md. Every alert is on a page and in their list.
func TestRunbooks(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob("../ops/deploy/runbooks/*.md")
	if err != nil || len(pages) != 12 {
		t.Fatalf("pages %v, %v, want eleven and the list of them", pages, err)
	}
	list, err := os.ReadFile("../ops/deploy/runbooks/README.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := ""
	for _, page := range append(pages, "../SECURITY.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		named := 0
		for _, m := range proof.FindAllStringSubmatch(string(text), -1) {
			for _, name := range testName.FindAllString(m[2], -1) {
				named++
				if !exists(t, filepath.Join("..", filepath.FromSlash(m[1])), name) {
					t.Errorf("%s: %s has no %s", page, m[1], name)
				}
			}
		}
		name := filepath.Base(page)
		if name == "SECURITY.md" && named > 15 || name == "README.md" {
			continue
		}
		seen += string(text)
		if named == 0 {
			t.Errorf("%s names no test", page)
		}
		for _, part := range []string{"**Seen.**", "**Check.**", "**Fix", "**Tested by**"} {
			if !strings.Contains(string(text), part) {
				t.Errorf("%s has no part %s", page, part)
			}
		}
		if !strings.Contains(string(list), "("+name+")") {
			t.Errorf("the list does not name %s", name)
		}
	}
	rules, err := os.ReadFile("../ops/deploy/prometheus/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	alerts := alert.FindAllSubmatch(rules, -1)
	for _, a := range alerts {
		for where, text := range map[string]string{"no page names it": seen, "the list of pages does not name it": string(list)} {
			if !strings.Contains(text, "`"+string(a[1])+"`") {
				t.Errorf("%s: %s", a[1], where)
			}
		}
	}
	if len(alerts) < 8 {
		t.Errorf("%d alerts in the rules, want 8", len(alerts))
	}
}

// exists tells whether the package in dir has a test function, or a script, of that name.
func exists(t *testing.T, dir, name string) bool {
	t.Helper()
	if strings.HasSuffix(name, ".txtar") {
		_, err := os.Stat(filepath.Join(dir, "testdata", "script", name))
		return err == nil
	}
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "\nfunc "+name+"(t *testing.T)") {
			return true
		}
	}
	return false
}
