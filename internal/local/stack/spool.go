package stack

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/spoolfolder"
)

// SpoolDir is where an Envoy that works in the state folder dir writes its usage log; Envoy makes
// no folders.
func SpoolDir(cfg *config.Config, dir string) string {
	spool := cfg.Envoy.Spool
	if !filepath.IsAbs(spool) {
		spool = filepath.Join(dir, spool)
	}
	return filepath.Dir(spool)
}

// SpoolFree is an error when the spool is another stack's that runs.
func (p *Plan) SpoolFree() error { return spoolfolder.Check(p.spoolDir(), spoolfolder.Of(p.dir)) }

func (p *Plan) spoolDir() string { return SpoolDir(p.cfg, p.dir) }

// Spools are the folders that a supervisor's Envoy writes its usage log into, or wrote before envoy.spool
// was changed. They are held until the supervisor ends, and its Envoy with it. One goroutine uses it.
type Spools struct {
	dir  string // state folder
	log  *slog.Logger
	held map[string]*spoolfolder.Claim
}

// NewSpools holds none yet.
func NewSpools(stateDir string, log *slog.Logger) *Spools {
	return &Spools{dir: stateDir, log: log, held: map[string]*spoolfolder.Claim{}}
}

// Hold takes the folder of a configuration, before its Envoy is started. It is an error when another
// stack has it.
func (s *Spools) Hold(cfg *config.Config) error {
	folder := SpoolDir(cfg, s.dir)
	if s.held[folder] != nil {
		return nil
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return fmt.Errorf("make spool folder: %w", err)
	}
	claim, err := spoolfolder.Hold(folder, spoolfolder.Writer, spoolfolder.Of(s.dir))
	if err != nil {
		return err
	}
	if claim.Unsure != nil {
		s.log.Warn("another stack may take the same spool", slog.Any("because", claim.Unsure))
	}
	s.held[folder] = claim
	return nil
}

// Release gives all back.
func (s *Spools) Release() {
	for _, claim := range s.held {
		claim.Release()
	}
}
