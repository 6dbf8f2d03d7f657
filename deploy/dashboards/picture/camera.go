package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/chromedp/chromedp"
)

// mostColours is the size of a picture's palette: enough for the edges of letters, and half the bytes.
const mostColours = 96

// openTab starts chromium; close ends it.
func openTab(ctx context.Context) (tab context.Context, close func(), err error) {
	ctx, end := chromedp.NewExecAllocator(ctx, append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox,
		chromedp.WindowSize(pageWidth, pageWidth))...)
	tab, closeTab := chromedp.NewContext(ctx)
	if err := chromedp.Do(tab); err != nil {
		end()
		return nil, nil, fmt.Errorf("start chromium (apt-get install chromium): %w", err)
	}
	return tab, func() { closeTab(); end() }, nil
}

// take writes the whole of a page as a PNG.
func take(tab context.Context, html []byte, file string) error {
	at := "data:text/html;base64," + base64.StdEncoding.EncodeToString(html)
	if err := chromedp.Do(tab, chromedp.Navigate(at)); err != nil {
		return fmt.Errorf("open page: %w", err)
	}
	shot, err := chromedp.Run(tab, chromedp.FullScreenshot(100))
	if err != nil {
		return fmt.Errorf("take picture: %w", err)
	}
	full, err := png.Decode(bytes.NewReader(shot))
	if err != nil {
		return fmt.Errorf("read picture: %w", err)
	}
	var out bytes.Buffer
	encoder := png.Encoder{CompressionLevel: png.BestCompression}
	if err := encoder.Encode(&out, paletted(full)); err != nil {
		return fmt.Errorf("write picture: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("write picture: %w", err)
	}
	if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write picture: %w", err)
	}
	return nil
}

// paletted is a picture of the most frequent colours: a page has few beside the edges of its letters.
func paletted(full image.Image) *image.Paletted {
	counts, size := map[color.Color]int{}, full.Bounds()
	for y := size.Min.Y; y < size.Max.Y; y++ {
		for x := size.Min.X; x < size.Max.X; x++ {
			counts[full.At(x, y)]++
		}
	}
	colours := slices.SortedFunc(maps.Keys(counts), func(a, b color.Color) int { return cmp.Compare(counts[b], counts[a]) })
	out := image.NewPaletted(size, colours[:min(len(colours), mostColours)])
	index := map[color.Color]uint8{}
	for _, c := range colours {
		index[c] = uint8(out.Palette.Index(c))
	}
	for y := size.Min.Y; y < size.Max.Y; y++ {
		for x := size.Min.X; x < size.Max.X; x++ {
			out.SetColorIndex(x, y, index[full.At(x, y)])
		}
	}
	return out
}
