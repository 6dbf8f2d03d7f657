package meter

import (
	"errors"
	"fmt"
	"os"
	"sync"
)

// damage keeps lines that cannot be read, and events that cannot be published, for a person to look
// at. It is safe for concurrent use.
type damage struct {
	path string
	mu   sync.Mutex
}

const maxDamage = 16 << 20 // bytes kept

var errDamageFull = errors.New("the file is full: move it away")

// keep appends lines.
func (d *damage) keep(lines [][]byte) error { return d.write(lines, false) }

// keepSafely appends all lines or none, and returns when they are on the disk: nothing else has them.
func (d *damage) keepSafely(lines [][]byte) error { return d.write(lines, true) }

func (d *damage) write(lines [][]byte, safely bool) (err error) {
	if len(lines) == 0 {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	f, err := os.OpenFile(d.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("keep damaged line: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("keep damaged line: %w", err)
	}
	if info.Size() > maxDamage { // also one that somebody has moved away is seen
		return fmt.Errorf("keep damaged line in %s: %w", d.path, errDamageFull)
	}
	var text []byte
	for _, line := range lines {
		text = append(append(text, line...), '\n')
	}
	_, err = f.Write(text)
	if safely {
		if err == nil {
			err = f.Sync()
		}
		if err != nil {
			err = errors.Join(err, f.Truncate(info.Size())) // it is all written again
		}
	}
	if err != nil {
		return fmt.Errorf("keep damaged line: %w", err)
	}
	return nil
}
