package hub

import (
	"bufio"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// publicIndex is the Python Package Index.
const publicIndex = "https://pypi.org/simple"

// indexURL is the index that the environment or pip is set to, else the public one: where pip works,
// the hub does.
func indexURL(env func(string) string) string {
	for _, key := range []string{"PELTON_PYPI_INDEX", "PIP_INDEX_URL"} {
		if v := env(key); v != "" {
			return v
		}
	}
	paths := []string{env("PIP_CONFIG_FILE")}
	if home := env("HOME"); home != "" {
		paths = append(paths, filepath.Join(home, ".config", "pip", "pip.conf"), filepath.Join(home, ".pip", "pip.conf"))
	}
	for _, path := range append(paths, "/etc/pip.conf") {
		if v := pipIndex(path); v != "" {
			return v
		}
	}
	return publicIndex
}

// pipIndex reads index-url of the section [global] of a pip configuration file.
func pipIndex(path string) string {
	if path == "" {
		return ""
	}
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	section, lines := "", bufio.NewScanner(io.LimitReader(f, 1<<20))
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if strings.HasPrefix(line, "[") {
			section = line
		}
		key, value, ok := strings.Cut(line, "=")
		if ok && section == "[global]" && strings.TrimSpace(key) == "index-url" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
