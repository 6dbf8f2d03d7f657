package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/bench/internal/rounds"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/local/binaries"
)

// legend says how to read the tables.
const legend = `Medians over shuffled rounds; each ratio is the median of the
rounds' own, which a noisy machine leaves alone. *bare* is an Envoy that only routes, *chain* the
product's own Envoy configuration with services that answer at once and do nothing, *whole* the
product: Envoy, every service and every store added up. The stub is not counted.`

// describe prints what the numbers were measured on and with.
func describe(ctx context.Context, w io.Writer) error {
	store, err := binaries.New(binaries.Config{CacheDir: config.CacheDir(os.Getenv)})
	if err != nil {
		return err
	}
	var versions []string
	for _, p := range store.List() {
		versions = append(versions, p.Name+" "+p.Version)
	}
	list := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Path}} {{.Version}}", "github.com/nats-io/nats-server/v2",
		"github.com/jackc/pgx/v5", "github.com/redis/go-redis/v9", "google.golang.org/grpc")
	modules, err := list.Output()
	if err != nil {
		return fmt.Errorf("list modules: %w", err)
	}
	commit, err := exec.CommandContext(ctx, "git", "describe", "--tags", "--always", "--dirty").Output()
	if err != nil {
		commit = []byte("unknown") // an archive without its history
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	fmt.Fprintf(w, "# Benchmarks of %s, %s\n\nWritten by `make bench`. %s\n\n", strings.TrimSpace(string(commit)), time.Now().UTC().Format("2006-01-02 15:04 MST"), legend)
	fmt.Fprintf(w, "- %d cores, %s, %s of memory, Linux %s\n", runtime.NumCPU(), procLine("/proc/cpuinfo", "model name"),
		procLine("/proc/meminfo", "MemTotal"), strings.TrimSpace(string(kernel)))
	fmt.Fprintf(w, "- %s, %s\n- %s\n", runtime.Version(), strings.Join(versions, ", "),
		strings.Join(strings.Split(strings.TrimSpace(string(modules)), "\n"), ", "))
	return nil
}

// procLine is the value of the first "name : value" in a file of /proc.
func procLine(path, name string) string {
	text, _ := os.ReadFile(path) // another system has none
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// moment is the state of the machine before a program starts.
type moment struct {
	spin, sync time.Duration
	load       string
	ticks      ticks
}

// quiet is how undisturbed a program was.
type quiet struct {
	name       string
	spin, sync [2]time.Duration // before and after
	load       string           // average over a minute, before
	stolen     float64          // share of the processors' time that the hypervisor gave to others
}

func probe(ctx context.Context) (m moment, err error) {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return m, fmt.Errorf("read the load: %w", err)
	}
	m.load, _, _ = strings.Cut(string(text), " ")
	m.spin, m.sync, err = probes(ctx)
	if err == nil {
		m.ticks, err = readTicks()
	}
	return m, err
}

func (m moment) until(ctx context.Context, name string) (q quiet, err error) {
	after, err := readTicks()
	if err != nil {
		return q, err
	}
	q = quiet{name: name, load: m.load, stolen: float64(after.stolen-m.ticks.stolen) / float64(max(1, after.all-m.ticks.all))}
	q.spin[0], q.sync[0] = m.spin, m.sync
	q.spin[1], q.sync[1], err = probes(ctx)
	return q, err
}

// probes time a fixed piece of work for the processor and one for the disk: medians.
func probes(ctx context.Context) (spin, sync time.Duration, err error) {
	const tries = 25
	file, err := os.CreateTemp("", "bench-sync")
	if err != nil {
		return 0, 0, err
	}
	defer os.Remove(filepath.Clean(file.Name()))
	defer file.Close()
	block := make([]byte, 1<<20)
	var spins, syncs []time.Duration
	for range tries {
		if ctx.Err() != nil {
			return 0, 0, ctx.Err()
		}
		begin := time.Now()
		for range 8 {
			sum := sha256.Sum256(block)
			copy(block, sum[:])
		}
		spins = append(spins, time.Since(begin))
		begin = time.Now()
		if _, err := file.Write(block[:8192]); err != nil {
			return 0, 0, err
		}
		if err := file.Sync(); err != nil {
			return 0, 0, err
		}
		syncs = append(syncs, time.Since(begin))
	}
	slices.Sort(spins)
	slices.Sort(syncs)
	return rounds.Quantile(spins, 0.5), rounds.Quantile(syncs, 0.5), nil
}

// ticks are the processors' time so far (proc(5), /proc/stat), in hundredths of a second.
type ticks struct{ all, stolen int64 }

func readTicks() (t ticks, err error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return t, fmt.Errorf("read processor times: %w", err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	const steal = 7 // cpu user nice system idle iowait irq softirq steal
	for i, field := range strings.Fields(strings.TrimPrefix(line, "cpu")) {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return t, fmt.Errorf("read processor times: %w", err)
		}
		if i <= steal { // what follows is counted in user and nice already
			t.all += n
		}
		if i == steal {
			t.stolen = n
		}
	}
	return t, nil
}

// quietness prints whether the machine was the same throughout.
func quietness(w io.Writer, all []quiet) {
	fmt.Fprint(w, "\n## How quiet the machine was\n\nThe same work for the processor (8 MB of SHA-256) and for the disk (8 kB and fsync) before and\n"+
		"after each program, the load before it, and the share of the processors' time that the hypervisor\ngave to others meanwhile.\n\n| program | processor, before | after | disk, before | after | load before | stolen |\n|---|---|---|---|---|---|---|\n")
	spins := []time.Duration{}
	noisy := false
	for _, q := range all {
		fmt.Fprintf(w, "| %s | %.1f ms | %.1f ms | %.2f ms | %.2f ms | %s | %.1f %% |\n", q.name, ms(q.spin[0]), ms(q.spin[1]), ms(q.sync[0]),
			ms(q.sync[1]), q.load, 100*q.stolen)
		spins = append(spins, q.spin[0], q.spin[1])
		noisy = noisy || q.stolen > 0.05
	}
	if noisy || float64(slices.Max(spins)) > 1.3*float64(slices.Min(spins)) {
		fmt.Fprintln(w, "\nThat is too noisy: compare ratios only, or run again.")
	}
}

func ms(d time.Duration) float64 { return d.Seconds() * 1e3 }
