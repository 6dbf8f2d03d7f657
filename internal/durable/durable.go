// Package durable is beside the request path: it puts files in their places so that a crash of the
// machine leaves the old content or the new one, whole.
//
// A rename is one step for whoever reads, not for the disk: a file system writes a file's name and its
// content when it likes, so that a power cut may leave the new name with nothing behind it. So the
// content is synced before it gets the name, and the folder, which holds the name, after that. Only
// then does the caller hear that it is done, and may delete what the old content still needed.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// As says what else is true of a new file before anybody sees it.
type As func(*os.File) error

// Mode is another mode than 0600.
func Mode(m fs.FileMode) As { return func(f *os.File) error { return f.Chmod(m) } }

// Owner is another owner than the user of this process.
func Owner(uid, gid int) As { return func(f *os.File) error { return f.Chown(uid, gid) } }

// Replace puts a file in the place of another, or of none, in one step; its folder must be there. After
// nil the new one outlives a crash of the machine; after an error either of them is there.
func Replace(path string, content []byte, as ...As) error {
	return put(path, content, as, os.Rename, (*os.File).Sync)
}

// Create is Replace, but fails with fs.ErrExist where there is a file, whoever was faster.
func Create(path string, content []byte, as ...As) error {
	return put(path, content, as, os.Link, (*os.File).Sync)
}

// put takes the name by name, os.Rename or os.Link, between the two syncs.
func put(path string, content []byte, as []As, name func(from, to string) error, sync func(*os.File) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), unfinished(path)) // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already after a rename
	_, err = f.Write(content)
	for _, apply := range as {
		if err == nil {
			err = apply(f)
		}
	}
	if err == nil {
		err = sync(f)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := name(f.Name(), path); err != nil {
		return err
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("sync the folder of %s: %w", path, err)
	}
	err = sync(folder)
	if errors.Is(err, syscall.EINVAL) { // a file system that syncs no folders, over a network for one
		err = nil
	}
	return errors.Join(err, folder.Close())
}

// unfinished is the pattern of names that writes of a file work under.
func unfinished(path string) string { return "." + filepath.Base(path) + ".new-*" }

// Sweep removes what crashes left of writes of a file. Nobody may be writing it.
func Sweep(path string) error {
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), unfinished(path)))
	for _, one := range left {
		err = errors.Join(err, os.Remove(one))
	}
	return err
}
