package cli

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestCheckFolder: a folder that is not there yet is as good as the one in which it will be made.
func TestCheckFolder(t *testing.T) {
	t.Parallel()
	if k := checkFolder(filepath.Join(t.TempDir(), "a", "b")); !strings.Contains(k.Found, " free") || k.OK != (k.Do == "") {
		t.Errorf("a folder to be made: %+v", k)
	}
	if k := checkFolder("/proc/pelton/data"); k.OK {
		t.Errorf("a folder where none can be made: %+v", k)
	}
}
