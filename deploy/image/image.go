package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	user     = 65532 // nobody in particular, as distroless images have it
	stateDir = "/var/lib/leaky-tokens"
	source   = "https://github.com/leaky-tokens/leaky-tokens"
)

// leakyImage is the image of a binary for a processor, such as amd64.
func leakyImage(binary []byte, processor, version string) (v1.Image, error) {
	content, err := layer(binary)
	if err != nil {
		return nil, err
	}
	packed, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
		tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, fmt.Errorf("pack layer: %w", err)
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err := mutate.AppendLayers(base, packed)
	if err != nil {
		return nil, fmt.Errorf("append layer: %w", err)
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read image configuration: %w", err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Created = "linux", processor, v1.Time{Time: time.Unix(0, 0).UTC()}
	file.Config = v1.Config{User: fmt.Sprintf("%d:%d", user, user), Entrypoint: []string{"/leaky"}, Cmd: []string{"--help"},
		WorkingDir: stateDir,
		Env:        []string{"LEAKY_STATE_DIR=" + stateDir}, Volumes: map[string]struct{}{stateDir: {}},
		Labels: map[string]string{"org.opencontainers.image.title": "leaky-tokens", "org.opencontainers.image.version": version,
			"org.opencontainers.image.licenses": "Apache-2.0", "org.opencontainers.image.source": source}}
	return mutate.ConfigFile(image, file)
}

// layer is the only one: the binary, and a state folder that the image's user may write.
func layer(binary []byte) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range []tar.Header{
		{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777},
		{Name: "var/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "var/lib/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: stateDir[1:] + "/", Typeflag: tar.TypeDir, Mode: 0o700, Uid: user, Gid: user},
		{Name: "leaky", Typeflag: tar.TypeReg, Mode: 0o555, Size: int64(len(binary))},
	} {
		h.ModTime = time.Unix(0, 0)
		if err := w.WriteHeader(&h); err != nil {
			return nil, fmt.Errorf("write %s: %w", h.Name, err)
		}
	}
	if _, err := w.Write(binary); err != nil {
		return nil, fmt.Errorf("write binary: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("end layer: %w", err)
	}
	return out.Bytes(), nil
}
