package main

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// TestTheImageIsItsBinary: the same binary gives the same image, which runs as nobody in
// particular and holds nothing else.
func TestTheImageIsItsBinary(t *testing.T) {
	t.Parallel()
	image, err := leakyImage([]byte("binary"), "arm64", "1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	again, err := leakyImage([]byte("binary"), "arm64", "1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	first, _ := image.Digest()
	if second, err := again.Digest(); err != nil || first != second {
		t.Errorf("want one digest, got %s and %s, %v", first, second, err)
	}
	file, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if c := file.Config; c.User != "65532:65532" || len(c.Entrypoint) != 1 || c.Entrypoint[0] != "/leaky" || file.Architecture != "arm64" {
		t.Errorf("image runs as %+v on %s", c, file.Architecture)
	}
	want := map[string]int64{"tmp/": 0o1777, "var/": 0o755, "var/lib/": 0o755, "var/lib/leaky-tokens/": 0o700, "leaky": 0o555}
	files := mutate.Extract(image)
	defer files.Close()
	for r := tar.NewReader(files); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		name := h.Name
		if h.Typeflag == tar.TypeDir && name[len(name)-1] != '/' {
			name += "/"
		}
		if mode, known := want[name]; !known || h.Mode != mode {
			t.Errorf("file %s with mode %o", name, h.Mode)
		}
		delete(want, name)
	}
	if len(want) > 0 {
		t.Errorf("missing: %v", want)
	}
}

// TestTheArchiveHasTheNameThatComposeRuns: after docker load the stack starts, whatever the version is called.
func TestTheArchiveHasTheNameThatComposeRuns(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "leaky-amd64"), []byte("binary"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := build(dir, "leaky-tokens:1.2.3"); err != nil {
		t.Fatal(err)
	}
	manifest, err := tarball.LoadManifest(func() (io.ReadCloser, error) { return os.Open(filepath.Join(dir, "leaky-amd64.tar")) })
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, image := range manifest {
		names = append(names, image.RepoTags...)
	}
	compose, err := os.ReadFile("../compose/compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	runs := regexp.MustCompile(`LEAKY_IMAGE:-([^}]+)`).FindSubmatch(compose)
	if runs == nil || !slices.Contains(names, string(runs[1])) || !slices.Contains(names, "leaky-tokens:1.2.3") {
		t.Errorf("compose runs %s, the archive has %v", runs, names)
	}
}
