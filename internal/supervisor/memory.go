package supervisor

import (
	"bytes"
	"os"
	"strconv"
)

// residentBytes is the resident memory of one process, 0 when it is gone.
func residentBytes(pid int) int64 {
	if pid <= 0 {
		return 0
	}
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm") // proc(5): size resident shared ..., in pages
	if err != nil {
		return 0
	}
	fields := bytes.Fields(text)
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(string(fields[1]), 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
