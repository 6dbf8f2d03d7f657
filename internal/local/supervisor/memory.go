package supervisor

import (
	"bytes"
	"os"
	"strconv"
)

// memory is what one process takes, in bytes; 0, 0 when it is gone. All our services run
// one binary, whose pages RSS counts in each of them again; PSS shares them out, so that
// the sum over processes is what the machine really gives.
func memory(pid int) (rss, pss int64) {
	if pid <= 0 {
		return 0, 0
	}
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/smaps_rollup") // proc(5): "Rss:  123 kB"
	if err != nil {
		return 0, 0
	}
	for line := range bytes.Lines(text) {
		fields := bytes.Fields(line)
		if len(fields) != 3 {
			continue
		}
		into := &rss
		switch string(fields[0]) {
		case "Rss:":
		case "Pss:":
			into = &pss
		default:
			continue
		}
		if kilobytes, err := strconv.ParseInt(string(fields[1]), 10, 64); err == nil {
			*into = kilobytes << 10
		}
	}
	return rss, pss
}
