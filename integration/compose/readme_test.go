package compose

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// readme runs README.md's lines for a fleet of containers as they stand, after the one that starts it: an
// operator makes a key, and curl streams an answer.
func readme(t *testing.T, f *Fleet) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, lines, begun := strings.Cut(string(text), "docker compose up -d --wait\n")
	lines, _, ended := strings.Cut(lines, "```")
	if !begun || !ended {
		t.Fatal("README.md has no lines that start a fleet of containers and ask it")
	}
	file, err := filepath.Abs("../../compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-euc", strings.ReplaceAll(lines, "localhost:8080", "localhost:"+f.ports["PELTON_HTTP_PORT"]))
	cmd.Dir, cmd.Env = t.TempDir(), append(f.env(), "COMPOSE_FILE="+file)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if events := strings.Count(string(out), `"content":"`); err != nil || events < 3 || !strings.HasSuffix(strings.TrimSpace(string(out)), "data: [DONE]") {
		t.Errorf("%v: %d pieces of text, want some and then [DONE] in\n%s%s", err, events, out, &stderr)
	}
}
