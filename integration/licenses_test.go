package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// licenses are those that a binary of ours may be built with, each with words that its text has and no
// other license's.
var licenses = map[string]string{
	"Apache-2.0":   "Apache License Version 2.0, January 2004",
	"MIT":          "Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files",
	"ISC":          "Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby granted",
	"BSD-3-Clause": "may be used to endorse or promote products derived from this software without specific prior written permission",
	"BSD-2-Clause": "Redistributions in binary form must reproduce the above copyright notice, this list of conditions and the following disclaimer in the documentation",
}

// TestLicenses: every module that is in the binary comes with a license that lets us ship it.
func TestLicenses(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}} {{.Dir}}{{end}}{{end}}", "../ops/cmd/pelton").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	modules := strings.Fields(strings.TrimSpace(string(out)))
	seen := map[string]bool{}
	for pair := range slices.Chunk(modules, 2) {
		if seen[pair[0]] {
			continue
		}
		seen[pair[0]] = true
		name, err := license(pair[1])
		if err != nil {
			t.Errorf("%s: %v", pair[0], err)
			continue
		}
		t.Logf("%-14s %s", name, pair[0])
	}
	if len(seen) < 20 {
		t.Errorf("%d modules found, want all of the binary's", len(seen))
	}
}

// license names the license of the module in dir.
func license(dir string) (string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "LICENSE*"))
	if err != nil {
		return "", err
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return "", err
		}
		text := strings.Join(strings.Fields(strings.ReplaceAll(string(data), "\n>", "\n")), " ") // some quote it
		for _, name := range []string{"Apache-2.0", "MIT", "ISC", "BSD-3-Clause", "BSD-2-Clause"} {
			if strings.Contains(text, licenses[name]) {
				return name, nil
			}
		}
	}
	return "", fmt.Errorf("no license that we may ship in %v", files)
}
