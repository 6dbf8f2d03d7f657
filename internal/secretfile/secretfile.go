// Package secretfile keeps secrets that the product makes for itself at first start:
// signing keys, encryption keys, the first administrator's password. Replicas that
// share a state folder agree on one content, whoever comes first.
package secretfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/leaky-tokens/leaky-tokens/internal/durable"
)

// LoadOrCreate reads the file at path. When there is none it writes what generate
// gives, mode 0600 in a folder of mode 0700, and never overwrites: of two processes
// at once both read the one that won. Errors name the path, never the content.
func LoadOrCreate(path string, generate func() ([]byte, error)) ([]byte, error) {
	content, err := Load(path)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return content, err
	}
	if content, err = generate(); err != nil {
		return nil, fmt.Errorf("generate %s: %w", path, err)
	}
	if err := create(path, content); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("create %s: %w", path, err)
	}
	return Load(path)
}

// Load reads a secret. A file that others than its owner may read is refused.
func Load(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("secret %s has mode %v: it must be a file that only its owner can read (chmod 600)", path, info.Mode())
	}
	return os.ReadFile(path)
}

// create makes the whole file appear at once: O_EXCL would show a half-written one.
func create(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return durable.Create(path, content)
}

// Replace puts a file in the place of another in one step, mode 0600: a reader sees the
// old one or the new one, and so does who reads after a crash of the machine.
func Replace(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return durable.Replace(path, content)
}
