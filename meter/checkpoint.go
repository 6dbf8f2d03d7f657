package meter

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/leaky-tokens/leaky-tokens/internal/durable"
)

// errTorn says that a checkpoint was cut or overwritten, by a crash of the machine for one.
var errTorn = errors.New("the checkpoint is damaged")

// loadCheckpoint gives the zero position when there is none.
func loadCheckpoint(path string) (position, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return position{}, nil
	}
	if err != nil {
		return position{}, fmt.Errorf("load checkpoint: %w", err)
	}
	var p position
	if err := json.Unmarshal(text, &p); err != nil || !p.possible() {
		return position{}, fmt.Errorf("load checkpoint %s: %w", path, errTorn)
	}
	return p, nil
}

// possible reports whether there can be such a position.
func (p position) possible() bool {
	return p.Offset >= 0 && p.HeadBytes >= 0 && int64(p.HeadBytes) <= min(headBytes, p.Offset)
}

func (p position) save(path string) error {
	text, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("save checkpoint: %w", err)
	}
	if err := durable.Replace(path, text); err != nil {
		return fmt.Errorf("save checkpoint: %w", err)
	}
	return nil
}

// saveCheckpoint writes down how far everything is published, if that is new. What it says counts as
// done, so that files may be deleted, once it is on the disk. Where it cannot be written (no room), the
// next one may be: until then a start replays more, and no file goes.
func (m *Meter) saveCheckpoint() {
	if m.published == (position{}) || m.published == *m.done.Load() {
		return
	}
	if err := m.published.save(m.cfg.checkpoint()); err != nil {
		m.metrics.retries.WithLabelValues("checkpoint").Inc()
		m.quietly.warn("the checkpoint is not saved", err)
		return
	}
	saved := m.published
	m.done.Store(&saved)
}
