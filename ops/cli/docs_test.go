package cli_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pelton-run/pelton/ops/cli"
)

// What --help shows: the commands below one, and its options.
var (
	helpCommand = regexp.MustCompile(`(?m)^  ([a-z][a-z-]*) +[A-Z]`)
	helpOption  = regexp.MustCompile(`(?m)^ +(?:-[a-z], )?--([a-z][a-z0-9-]*)`)
)

// TestDocs: each command that help lists, at any depth, has a man page and one in Markdown, with all of its options
// and its examples; nothing else is there, and a second run in another home writes the same.
func TestDocs(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("SOURCE_DATE_EPOCH", "1795824000")
	write := func(home string) string {
		t.Helper()
		t.Setenv("HOME", home)
		t.Setenv("XDG_CACHE_HOME", "")
		t.Setenv("XDG_DATA_HOME", "")
		to := filepath.Join(dir, filepath.Base(home))
		var stderr bytes.Buffer
		if code := cli.Main([]string{"docs", to}, strings.NewReader(""), io.Discard, &stderr); code != 0 {
			t.Fatalf("exit code %d: %s", code, &stderr)
		}
		return to
	}
	one, two := write("/home/one"), write("/home/two")
	pages := map[string]bool{}
	var check func(command ...string)
	check = func(command ...string) {
		var help bytes.Buffer
		if code := cli.Main(append(command, "--help"), strings.NewReader(""), &help, io.Discard); code != 0 {
			t.Fatalf("%v --help: exit code %d", command, code)
		}
		name := strings.Join(append([]string{"pelton"}, command...), "-")
		man, md := read(t, one, "man1", name+".1"), read(t, one, "markdown", strings.ReplaceAll(name, "-", "_")+".md")
		pages[name] = true
		for _, m := range helpOption.FindAllStringSubmatch(help.String(), -1) {
			if !strings.Contains(man, `\fB--`+m[1]+`\fP`) || !strings.Contains(md, "--"+m[1]) {
				t.Errorf("the pages of %s do not have --%s", name, m[1])
			}
		}
		if _, examples, has := strings.Cut(help.String(), "Examples:\n"); has {
			line, _, _ := strings.Cut(examples, "\n")
			if !strings.Contains(md, line+"\n") || !strings.Contains(man, strings.TrimSpace(line)+"\n") {
				t.Errorf("the pages of %s do not have the example %q", name, line)
			}
		}
		for _, page := range []string{filepath.Join("man1", name+".1"), filepath.Join("markdown", strings.ReplaceAll(name, "-", "_")+".md")} {
			if read(t, one, page) != read(t, two, page) || strings.Contains(read(t, one, page), "/home/") {
				t.Errorf("%s depends on whose home it is", page)
			}
		}
		_, commands, _ := strings.Cut(help.String(), "Available Commands:\n")
		commands, _, _ = strings.Cut(commands, "\n\n")
		for _, m := range helpCommand.FindAllStringSubmatch(commands, -1) {
			if m[1] != "help" {
				check(append(append([]string{}, command...), m[1])...)
			}
		}
	}
	check()
	for _, kind := range []string{"man1", "markdown"} {
		if files, err := os.ReadDir(filepath.Join(one, kind)); err != nil || len(files) != len(pages) || len(pages) < 40 {
			t.Errorf("%s has %d pages for %d commands, %v", kind, len(files), len(pages), err)
		}
	}
	if page := read(t, one, "man1", "pelton-worker-drain.1"); !strings.Contains(page, `"Nov 2026" "pelton`) {
		t.Errorf("not the date of SOURCE_DATE_EPOCH: %.80s", page)
	}
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Error(err)
	}
	return string(text)
}
