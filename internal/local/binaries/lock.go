package binaries

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

// Kind is the package manager that a part comes through.
type Kind string

const (
	PyPI Kind = "pypi" // a wheel, by pip
	NPM  Kind = "npm"  // a tarball, by npm
	Deb  Kind = "deb"  // a Debian package, by apt-get; unpacked, never installed
)

// Part is one entry of deploy/parts.json.
type Part struct {
	Name       string          `json:"name"`
	Version    string          `json:"version"`
	Instead    string          `json:"instead"` // environment variable that makes the part needless
	Kind       Kind            `json:"kind"`
	Package    string          `json:"package"`    // name in the registry
	Release    string          `json:"release"`    // version in the registry
	Files      map[string]File `json:"files"`      // by platform, "linux/amd64"
	Keep       []string        `json:"keep"`       // files, or folders ending in a slash, that are unpacked
	Executable []string        `json:"executable"` // patterns of path.Match
	Optional   bool            `json:"optional"`   // the stack runs without it
}

// File is the archive for one platform.
type File struct {
	File   string `json:"file"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"` // 64 hex digits
	Entry  string `json:"entry"`  // the program or library within
}

type lock struct {
	Parts []Part `json:"parts"`
}

var plainName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]*$`)

// parseLock decodes the lock file strictly.
func parseLock(text []byte) (lock, error) {
	var l lock
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&l); err != nil {
		return lock{}, fmt.Errorf("read parts lock: %w", err)
	}
	seen := map[string]bool{}
	for _, p := range l.Parts {
		if seen[p.Name] {
			return lock{}, fmt.Errorf("read parts lock: %q is there twice", p.Name)
		}
		seen[p.Name] = true
		if err := p.check(); err != nil {
			return lock{}, fmt.Errorf("read parts lock: %s: %w", p.Name, err)
		}
	}
	return l, nil
}

func (p Part) check() error {
	switch {
	case !plainName.MatchString(p.Name), !plainName.MatchString(p.Version):
		return fmt.Errorf("name %q or version %q is not a plain word", p.Name, p.Version)
	case p.Kind != PyPI && p.Kind != NPM && p.Kind != Deb:
		return fmt.Errorf("kind %q is none of pypi, npm and deb", p.Kind)
	case p.Package == "" || p.Release == "" || p.Instead == "" || strings.HasPrefix(p.Package, "-"):
		return errors.New("package, release and instead must be set")
	case len(p.Files) == 0:
		return errors.New("files is empty")
	}
	for platform, f := range p.Files {
		if sum, err := hex.DecodeString(f.SHA256); err != nil || len(sum) != 32 {
			return fmt.Errorf("%s: sha256 %q is not 64 hex digits", platform, f.SHA256)
		}
		if !plainName.MatchString(f.File) || !filepath.IsLocal(f.Entry) || f.Bytes <= 0 {
			return fmt.Errorf("%s: file, entry or bytes is out of range", platform)
		}
	}
	return nil
}

func (l lock) part(name string) (Part, error) {
	var known []string
	for _, p := range l.Parts {
		if p.Name == name {
			return p, nil
		}
		known = append(known, p.Name)
	}
	return Part{}, fmt.Errorf("part %q is not known; there are %s", name, strings.Join(known, ", "))
}

// keeps reports whether a file of the archive is unpacked. Debian's names begin with "./".
func (p Part) keeps(name string) bool {
	name = strings.TrimPrefix(name, "./")
	for _, k := range p.Keep {
		if name == k || strings.HasSuffix(k, "/") && strings.HasPrefix(name, k) {
			return true
		}
	}
	return false
}

func (p Part) executable(name string) bool {
	for _, pattern := range p.Executable {
		if ok, err := path.Match(pattern, path.Clean(name)); ok && err == nil {
			return true
		}
	}
	return false
}
