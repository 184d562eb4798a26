package hub

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
)

// explain says what to do about errors of the file system below dir.
func explain(err error, dir string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%w: free some room for %s and run again, what was fetched so far is kept: %w", ErrDiskFull, dir, err)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%s cannot be written: make it writable or choose another folder: %w", dir, err)
	}
	return err
}
