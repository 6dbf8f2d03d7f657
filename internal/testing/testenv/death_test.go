package testenv

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

const helperVariable = "LEAKY_TESTENV_HELPER"

// TestHelperProcess is the process that TestServersDieWithTheTests kills.
func TestHelperProcess(t *testing.T) {
	if os.Getenv(helperVariable) == "" {
		return // nothing to do as a test of its own
	}
	Postgres(t)
	Redis(t)
	ClickHouse(t)
	postgres, err := sharedPostgres()
	if err != nil {
		t.Fatal(err)
	}
	redis, err := sharedRedis()
	if err != nil {
		t.Fatal(err)
	}
	clickhouse, err := sharedClickHouse()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []*process{postgres.process, redis.server.process, clickhouse.process} {
		fmt.Println("pid", p.cmd.Process.Pid)
	}
	fmt.Println("ready")
	select {}
}

func TestServersDieWithTheTests(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHelperProcess$")
	cmd.Env = append(os.Environ(), helperVariable+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pids []int
	for lines := bufio.NewScanner(out); lines.Scan() && lines.Text() != "ready"; {
		if text, ok := strings.CutPrefix(lines.Text(), "pid "); ok {
			pid, err := strconv.Atoi(text)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	if len(pids) != 3 {
		t.Fatalf("servers of the other process: want 3, got %d", len(pids))
	}
	for _, pid := range pids {
		if !runs(pid) {
			t.Errorf("server %d before the kill: want it to run, got it gone", pid)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	deadline := time.Now().Add(startTimeout)
	for _, pid := range pids {
		for runs(pid) {
			if time.Now().After(deadline) {
				t.Fatalf("server %d after the kill: want it gone, got it running", pid)
			}
			time.Sleep(5 * time.Millisecond) // a poll, up to the deadline
		}
	}
}

// runs reports whether a process does; one that nobody has waited for does not.
func runs(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, after, found := strings.Cut(string(text), ") ")
	return found && after[0] != 'Z'
}
