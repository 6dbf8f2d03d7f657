// Package proc reads from Linux what the benchmarks want to know of processes.
package proc

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of the CPU times in /proc/PID/stat: 1/sysconf(_SC_CLK_TCK),
// a hundredth of a second on every Linux that Go runs on.
const clockTick = 10 * time.Millisecond

// CPU is the CPU time that processes used so far, by name; children (Postgres has many)
// count. A process that is gone is an error.
func CPU(roots map[string][]int) (map[string]time.Duration, error) {
	times, parents, err := read()
	if err != nil {
		return nil, err
	}
	used := map[string]time.Duration{}
	for name, pids := range roots {
		used[name] = 0
		for _, root := range pids {
			if _, ok := times[root]; !ok {
				return nil, fmt.Errorf("a process of %s (pid %d) is gone", name, root)
			}
			for pid, spent := range times {
				if descends(pid, root, parents) {
					used[name] += spent
				}
			}
		}
	}
	return used, nil
}

func descends(pid, root int, parents map[int]int) bool {
	for pid > 1 {
		if pid == root {
			return true
		}
		pid = parents[pid]
	}
	return false
}

// read reads CPU time and parent of every process (proc(5), /proc/PID/stat).
func read() (times map[int]time.Duration, parents map[int]int, err error) {
	paths, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, nil, err
	}
	times, parents = map[int]time.Duration{}, map[int]int{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it ended while we looked
		}
		pid, err := strconv.Atoi(strings.Split(path, "/")[2])
		if err != nil {
			return nil, nil, err
		}
		// The name in parentheses may hold spaces: fields are counted from its end.
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if len(fields) < 15 {
			return nil, nil, fmt.Errorf("read %s: %d fields", path, len(fields))
		}
		parents[pid], _ = strconv.Atoi(fields[1])
		user, _ := strconv.Atoi(fields[11])
		system, _ := strconv.Atoi(fields[12])
		times[pid] = time.Duration(user+system) * clockTick
	}
	return times, parents, nil
}
