package stacktest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// Family is a process and those that it has started, of which some may be gone by now: what is frozen
// with all of them stands still.
func Family(pid int) []int {
	all := []int{pid}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // the pattern is well formed
	for _, task := range tasks {
		text, _ := os.ReadFile(task) // gone: it has none
		for field := range bytes.FieldsSeq(text) {
			if child, err := strconv.Atoi(string(field)); err == nil {
				all = append(all, child)
			}
		}
	}
	return all
}
