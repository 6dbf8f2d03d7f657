// Package footprint keeps the resident memory of a service near what it uses. One
// binary holds every service, and a process that starts touches most of it once, in
// the initialisation of packages it never calls; those pages then count as resident
// in each of a dozen processes.
package footprint

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"syscall"
	"time"
)

// settle is how long after its start a service is taken to have initialised.
const settle = 4 * time.Second

// Trim waits until start-up is over, returns the heap's garbage to the system, and
// unmaps the pages of the binary once: what is still needed comes back from the page
// cache by minor faults, the rest stays away. It returns early when ctx ends.
func Trim(ctx context.Context) error {
	timer := time.NewTimer(settle)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return nil
	case <-timer.C:
	}
	debug.FreeOSMemory()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("trim memory: %w", err)
	}
	binary, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("trim memory: %w", err)
	}
	for _, m := range readOnly(maps, binary) {
		// Read-only file pages hold nothing of ours: dropping them loses nothing (madvise(2)).
		if _, _, errno := syscall.Syscall(syscall.SYS_MADVISE, m.from, m.to-m.from, syscall.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("trim memory: %w", errno)
		}
	}
	return nil
}

type mapping struct{ from, to uintptr }

// readOnly finds the mappings of the binary that can't be written, in the format of proc(5).
func readOnly(maps []byte, binary string) []mapping {
	var found []mapping
	lines := bufio.NewScanner(bytes.NewReader(maps))
	for lines.Scan() {
		var m mapping
		var mode, offset, device, inode, path string
		n, _ := fmt.Sscanf(lines.Text(), "%x-%x %s %s %s %s %s", &m.from, &m.to, &mode, &offset, &device, &inode, &path)
		if n == 7 && path == binary && (mode == "r-xp" || mode == "r--p") {
			found = append(found, m)
		}
	}
	return found
}
