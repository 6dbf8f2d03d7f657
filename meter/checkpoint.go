package meter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/leaky-tokens/leaky-tokens/internal/durable"
)

// errTorn says that a checkpoint was cut or overwritten, by a crash of the machine for one.
var errTorn = errors.New("the checkpoint is damaged")

// checkpoint is up to where the spool is done.
type checkpoint struct {
	position
	// Sequence is the place in the stream of the newest event before it, 0 where it is not known.
	Sequence uint64 `json:"sequence,omitzero"`
}

// loadCheckpoint gives the zero checkpoint when there is none.
func loadCheckpoint(path string) (checkpoint, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return checkpoint{}, nil
	}
	if err != nil {
		return checkpoint{}, fmt.Errorf("load checkpoint: %w", err)
	}
	var c checkpoint
	if err := json.Unmarshal(text, &c); err != nil || !c.possible() {
		return checkpoint{}, fmt.Errorf("load checkpoint %s: %w", path, errTorn)
	}
	return c, nil
}

// possible reports whether there can be such a position.
func (p position) possible() bool {
	return p.Offset >= 0 && p.HeadBytes >= 0 && int64(p.HeadBytes) <= min(headBytes, p.Offset)
}

func (c checkpoint) save(path string) error {
	text, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("save checkpoint: %w", err)
	}
	if err := durable.Replace(path, text); err != nil {
		return fmt.Errorf("save checkpoint: %w", err)
	}
	return nil
}

// saveCheckpoint writes down how far everything is done, if that is new. Files may be deleted on its
// word once it is on the disk. Where it cannot be written (no room), the next one may be: until then a
// start replays more, and no file goes.
func (m *Meter) saveCheckpoint() {
	if m.published == m.saved {
		return
	}
	if err := m.published.save(m.cfg.checkpoint()); err != nil {
		m.metrics.retries.WithLabelValues("checkpoint").Inc()
		m.said.Warn(context.Background(), "the checkpoint is not saved", err)
		return
	}
	m.saved = m.published
	done := m.saved.position
	m.done.Store(&done)
}
