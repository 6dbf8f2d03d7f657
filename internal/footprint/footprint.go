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

const (
	// settle is how long after its start a service is taken to have initialised.
	settle = 4 * time.Second
	// again is how often what a busy time left behind is given back.
	again = time.Minute
)

// Keep trims when start-up is over and once a minute from then, until ctx ends.
func Keep(ctx context.Context) error {
	timer := time.NewTimer(settle)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		if err := trim(); err != nil {
			return err
		}
		timer.Reset(again)
	}
}

// trim returns the heap's garbage to the system and unmaps the pages of the binary: what
// is needed comes back from the page cache by minor faults, at some microseconds of CPU
// a minute, the rest stays away.
func trim() error {
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
