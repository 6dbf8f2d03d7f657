package supervisor

import "github.com/prometheus/procfs"

// memory is what one process takes, in bytes; 0, 0 when it is gone. All our services run
// one binary, whose pages RSS counts in each of them again; PSS shares them out, so that
// the sum over processes is what the machine really gives.
func memory(pid int) (rss, pss int64) {
	if pid <= 0 {
		return 0, 0
	}
	proc, err := procfs.NewProc(pid)
	if err != nil {
		return 0, 0
	}
	maps, err := proc.ProcSMapsRollup()
	if err != nil {
		return 0, 0
	}
	return int64(maps.Rss), int64(maps.Pss)
}
