package config

import (
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/yamlbound"
)

const (
	// MaxPEM is the largest file with certificates or their key, in bytes.
	MaxPEM = 1 << 20
	// readWait bounds the wait for what a pipe has: `leaky check <(...)` is one.
	readWait = 10 * time.Second
)

// ReadFile reads a file of the configuration. One that is larger than any can be is not read:
// every part looks at it each second.
func ReadFile(path string) ([]byte, error) { return ReadAtMost(path, yamlbound.MaxFile) }

// ReadAtMost reads a small file that is looked at while the product runs, such as a key; one of more
// bytes than most is an error. What stands in its place by mistake does no harm: of a device, which
// never ends, no more is read, and a pipe is not waited for that nobody writes to, or nobody ends. A part
// would never look at a file again.
func ReadAtMost(path string, most int) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	_ = f.SetReadDeadline(time.Now().Add(readWait)) // a file has none, and needs none
	text, err := io.ReadAll(io.LimitReader(f, int64(most)+1))
	if err == nil && len(text) > most {
		return nil, fmt.Errorf("%s has more than %d bytes; nothing that belongs there is that large", path, most)
	}
	return text, err
}
