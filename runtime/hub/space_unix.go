//go:build linux || darwin

package hub

import "golang.org/x/sys/unix"

// FreeSpace is how many bytes may be written to the file system of dir; false when that is not known.
func FreeSpace(dir string) (int64, bool) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, false
	}
	return int64(s.Bavail) * int64(s.Bsize), true
}
