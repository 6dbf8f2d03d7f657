package main

import (
	"context"
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

// cpu is the CPU time used so far, by part; children (Postgres has many) count.
func (s system) cpu(context.Context) (map[string]time.Duration, error) {
	times, parents, err := readProc()
	if err != nil {
		return nil, err
	}
	used := map[string]time.Duration{}
	for part, pids := range s.pids {
		used[part] = 0
		for _, root := range pids {
			if _, ok := times[root]; !ok {
				return nil, fmt.Errorf("a process of %s (%s, pid %d) is gone", s.name, part, root)
			}
			for pid, spent := range times {
				if descends(pid, root, parents) {
					used[part] += spent
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

// readProc reads CPU time and parent of every process (proc(5), /proc/PID/stat).
func readProc() (times map[int]time.Duration, parents map[int]int, err error) {
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
