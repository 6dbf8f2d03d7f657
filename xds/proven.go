package xds

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/leaky-tokens/leaky-tokens/internal/secretfile"
	"github.com/leaky-tokens/leaky-tokens/internal/settings"
)

// proven is what xds keeps on disk of the last configuration that an Envoy took whole: a new
// xds serves it first, and what the files hold by then as a change, which Envoys may refuse.
type proven struct {
	Path  string            `json:"path"` // of leaky.yaml
	Hash  string            `json:"sha256"`
	Texts map[string]string `json:"texts"`
}

// provenFile may hold passwords of stores, as leaky.yaml may.
func (s source) provenFile() string { return filepath.Join(s.dir, "xds", "proven.json") }

// lastProven is the last proven configuration if it is another than now; without a snapshot there
// is none.
func (s source) lastProven(now *settings.Settings) (loaded, error) {
	if now.Path() == "" {
		return loaded{}, nil
	}
	text, err := os.ReadFile(s.provenFile())
	if errors.Is(err, fs.ErrNotExist) {
		return loaded{}, nil
	}
	var p proven
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	if err != nil || p.Path != now.Path() || p.Hash == now.Hash {
		return loaded{}, err
	}
	before, err := settings.Of(p.Path, p.Texts, s.keys.getenv)
	if err != nil {
		return loaded{}, err
	}
	return s.load(before)
}

// keepProven writes the live configuration down if an Envoy runs it.
func (x *XDS) keepProven(ctx context.Context) {
	x.mu.Lock()
	live, is := x.live, x.live.snapshot != nil && x.live.snapshot.Version == x.proven
	x.mu.Unlock()
	if !is || live.settings.Path() == "" || live.settings.Hash == x.keptProven {
		return
	}
	text, err := json.Marshal(proven{Path: live.settings.Path(), Hash: live.settings.Hash, Texts: live.settings.Texts()})
	if err == nil {
		err = secretfile.Replace(x.source.provenFile(), text)
	}
	if err != nil {
		x.log.LogAttrs(ctx, slog.LevelWarn, "what Envoys run is not kept for the next start", slog.Any("error", err))
		return
	}
	x.keptProven = live.settings.Hash
}
