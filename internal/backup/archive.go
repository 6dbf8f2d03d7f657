package backup

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"
)

// Recipients reads whom a backup is encrypted for: age1...
func Recipients(keys []string) ([]age.Recipient, error) {
	return age.ParseRecipients(strings.NewReader(strings.Join(keys, "\n")))
}

// Identities reads the file of who opens one, as age-keygen writes it. An error shows nothing of it.
func Identities(path string) ([]age.Identity, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	const most = 64 << 10
	all, err := age.ParseIdentities(io.LimitReader(f, most))
	if err != nil {
		return nil, fmt.Errorf("%s holds no age identity (AGE-SECRET-KEY-1...)", path)
	}
	return all, nil
}

// writer makes the files of a backup: compressed, then encrypted if somebody is named for it.
type writer struct {
	dir        string
	recipients []age.Recipient
	told       func(string)
	files      []File
}

// counted counts and hashes what reaches the disk.
type counted struct {
	file  *os.File
	sum   hash.Hash
	bytes int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.file.Write(p)
	c.sum.Write(p[:n])
	c.bytes += int64(n)
	return n, err
}

// file writes one; fill says how many rows it wrote.
func (w *writer) file(name string, fill func(io.Writer) (rows int64, err error)) (err error) {
	f, err := os.OpenFile(filepath.Join(w.dir, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("create file: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	disk := &counted{file: f, sum: sha256.New()}
	secret, err := w.sealed(disk)
	if err != nil {
		return err
	}
	packed := gzip.NewWriter(secret)
	rows, err := fill(packed)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := errors.Join(packed.Close(), secret.Close(), f.Sync()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	w.files = append(w.files, File{Name: name, Bytes: disk.bytes, SHA256: hex.EncodeToString(disk.sum.Sum(nil)), Rows: rows})
	w.told(fmt.Sprintf("%s: %d rows, %d bytes", name, rows, disk.bytes))
	return nil
}

type plain struct{ io.Writer }

func (plain) Close() error { return nil }

func (w *writer) sealed(to io.Writer) (io.WriteCloser, error) {
	if len(w.recipients) == 0 {
		return plain{to}, nil
	}
	sealed, err := age.Encrypt(to, w.recipients...)
	if err != nil {
		return nil, fmt.Errorf("encrypt: %w", err)
	}
	return sealed, nil
}

// Check reads all of a backup and refuses one that is incomplete or damaged. It needs no key.
func Check(dir string) (Manifest, error) {
	var m Manifest
	text, err := os.ReadFile(filepath.Join(dir, manifestName))
	if errors.Is(err, fs.ErrNotExist) {
		return m, fmt.Errorf("%s has no %s: it is no backup, or one that did not end", dir, manifestName)
	}
	if err != nil {
		return m, fmt.Errorf("read manifest: %w", err)
	}
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(&m); err != nil {
		return m, fmt.Errorf("%s is damaged: %w", manifestName, err)
	}
	if m.Format != format {
		return m, fmt.Errorf("%s has format %d, this release reads %d", manifestName, m.Format, format)
	}
	var wrong []error
	for _, file := range m.Files {
		if err := file.check(dir); err != nil {
			wrong = append(wrong, err)
		}
	}
	return m, errors.Join(wrong...)
}

func (f File) check(dir string) error {
	if f.Name != filepath.Base(f.Name) || strings.HasPrefix(f.Name, ".") {
		return fmt.Errorf("%s names %q, which is no file of a backup", manifestName, f.Name)
	}
	file, err := os.Open(filepath.Join(dir, f.Name))
	if err != nil {
		return fmt.Errorf("the backup is incomplete: %w", err)
	}
	defer file.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, file)
	if err != nil {
		return fmt.Errorf("read %s: %w", f.Name, err)
	}
	if n != f.Bytes || hex.EncodeToString(sum.Sum(nil)) != f.SHA256 {
		return fmt.Errorf("%s is damaged: %d bytes with another checksum than the manifest's %d bytes", f.Name, n, f.Bytes)
	}
	return nil
}

// reader opens the files of a backup that was checked.
type reader struct {
	dir        string
	manifest   Manifest
	identities []age.Identity
	told       func(string)
}

// with gives the files whose names begin so, without the beginning and the end.
func (r *reader) with(prefix, suffix string) []string {
	var names []string
	for _, f := range r.manifest.Files {
		if name, ok := strings.CutPrefix(f.Name, prefix); ok && strings.HasSuffix(name, suffix) {
			names = append(names, strings.TrimSuffix(name, suffix))
		}
	}
	return names
}

func (r *reader) file(name string, use func(io.Reader) error) error {
	f, err := os.Open(filepath.Join(r.dir, name))
	if err != nil {
		return fmt.Errorf("open file: %w", err)
	}
	defer f.Close()
	var from io.Reader = f
	if r.manifest.Encrypted {
		if from, err = age.Decrypt(f, r.identities...); err != nil {
			return fmt.Errorf("decrypt %s: %w", name, err)
		}
	}
	unpacked, err := gzip.NewReader(from)
	if err != nil {
		return fmt.Errorf("unpack %s: %w", name, err)
	}
	if err := use(unpacked); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	r.told(name)
	return nil
}

// decipher opens one file, so that a wrong key is known before anything is written.
func (r *reader) decipher() error {
	if !r.manifest.Encrypted || len(r.manifest.Files) == 0 {
		return nil
	}
	quiet := *r
	quiet.told = func(string) {}
	return quiet.file(r.manifest.Files[0].Name, func(io.Reader) error { return nil })
}
