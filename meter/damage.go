package meter

import (
	"fmt"
	"os"
)

// damage keeps lines that cannot be read, for a person to look at.
type damage struct {
	path string
	size int64
}

const maxDamage = 16 << 20 // bytes kept

func (d *damage) keep(lines [][]byte) error {
	if len(lines) == 0 || d.size > maxDamage {
		return nil
	}
	f, err := os.OpenFile(d.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("keep damaged line: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil {
		d.size = info.Size()
	}
	for _, line := range lines {
		if d.size > maxDamage {
			break
		}
		n, err := f.Write(append(append([]byte{}, line...), '\n'))
		if err != nil {
			return fmt.Errorf("keep damaged line: %w", err)
		}
		d.size += int64(n)
	}
	return nil
}
