package meter

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
)

// position is a place in the spool: everything before it is done.
type position struct {
	Inode  uint64 `json:"inode"`
	Offset int64  `json:"offset"` // bytes
	// Head is a hash of the first HeadBytes of the file, since inodes are used again.
	HeadBytes int    `json:"headBytes"` // at most headBytes and Offset
	Head      uint64 `json:"head"`
}

const headBytes = 256

// hashHead is FNV-1a.
func hashHead(head []byte) uint64 {
	h := fnv.New64a()
	_, _ = h.Write(head) // never fails
	return h.Sum64()
}

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
	if err := json.Unmarshal(text, &p); err != nil || p.Offset < 0 {
		return position{}, fmt.Errorf("load checkpoint %s: %w", path, errTorn)
	}
	return p, nil
}

func (p position) save(path string) error {
	text, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("save checkpoint: %w", err)
	}
	if err := writeFile(path, text); err != nil {
		return fmt.Errorf("save checkpoint: %w", err)
	}
	return nil
}

// writeFile replaces a file in one step. It does not sync: after a crash of the machine a checkpoint
// that is older, empty or torn only replays.
func writeFile(path string, text []byte) error {
	temporary := path + ".new"
	if err := os.WriteFile(temporary, text, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}
