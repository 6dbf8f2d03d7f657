package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// localTag is what compose.yaml runs: the image that was loaded last, whatever its version.
const localTag = "leaky-tokens:dev"

func main() {
	dir := flag.String("dir", "bin/image", "folder with leaky-amd64 and leaky-arm64; the images go there too")
	tag := flag.String("tag", localTag, "name of the image, beside "+localTag)
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "Builds the images of the binaries in a folder: layout/ for all processors (OCI, to be pushed with crane or skopeo)\n"+
			"and leaky-PROCESSOR.tar for `docker load`. `make image` builds the binaries first.\n\nExample:\n\n    go run ./deploy/image -tag leaky-tokens:1.0.0")
		flag.PrintDefaults()
	}
	flag.Parse()
	if err := build(*dir, *tag); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func build(dir, tag string) error {
	ref, err := name.NewTag(tag)
	if err != nil {
		return fmt.Errorf("tag %q: %w", tag, err)
	}
	local, err := name.NewTag(localTag)
	if err != nil {
		return fmt.Errorf("tag %q: %w", localTag, err)
	}
	binaries, err := filepath.Glob(filepath.Join(dir, "leaky-*[0-9]"))
	if err != nil {
		return err
	}
	if len(binaries) == 0 {
		return fmt.Errorf("%s has no binary leaky-PROCESSOR; run `make image`", dir)
	}
	index := v1.ImageIndex(empty.Index)
	for _, path := range binaries {
		binary, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		processor := strings.TrimPrefix(filepath.Base(path), "leaky-")
		image, err := leakyImage(binary, processor, ref.TagStr())
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if err := tarball.MultiWriteToFile(path+".tar", map[name.Tag]v1.Image{ref: image, local: image}); err != nil {
			return fmt.Errorf("write %s.tar: %w", path, err)
		}
		if err := tell(tag, processor, image); err != nil {
			return err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: processor}}})
	}
	index = mutate.IndexMediaType(index, types.OCIImageIndex)
	if _, err := layout.Write(filepath.Join(dir, "layout"), index); err != nil {
		return fmt.Errorf("write layout: %w", err)
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	fmt.Printf("%s  all processors  %s  %s\n", tag, digest, filepath.Join(dir, "layout"))
	return nil
}

// tell prints what a registry would hold of an image.
func tell(tag, processor string, image v1.Image) error {
	digest, err := image.Digest()
	if err != nil {
		return err
	}
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	var bytes int64
	for _, l := range layers {
		size, err := l.Size()
		if err != nil {
			return err
		}
		bytes += size
	}
	fmt.Printf("%s  linux/%s  %s  %.1f MB compressed\n", tag, processor, digest, float64(bytes)/1e6)
	return nil
}
