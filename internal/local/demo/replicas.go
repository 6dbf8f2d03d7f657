package demo

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// Metrics of a limiter that the demo reads.
const (
	metricLeased  = "leaky_ratelimit_leased_tokens"
	metricAdopted = "leaky_ratelimit_outage_adopted_total"
)

// limiters are the processes of ratelimit, each with metrics of its own.
type limiters struct {
	http *http.Client
	urls []string // without a path
}

// leased is what all of them together could admit without Redis now, in tokens.
func (l *limiters) leased(ctx context.Context) (float64, error) {
	sum := 0.0
	err := l.each(ctx, func(name, _ string, value float64) {
		if name == metricLeased {
			sum += value
		}
	})
	return sum, err
}

// adopted is how many calls of outages were written down, by how: out of their lease, by
// force, known before, or failed.
func (l *limiters) adopted(ctx context.Context) (map[string]int, error) {
	sums := map[string]int{}
	err := l.each(ctx, func(name, labels string, value float64) {
		if name == metricAdopted {
			_, how, _ := strings.Cut(labels, `how="`)
			how, _, _ = strings.Cut(how, `"`)
			sums[how] += int(value)
		}
	})
	return sums, err
}

func (l *limiters) each(ctx context.Context, see func(name, labels string, value float64)) error {
	for _, url := range l.urls {
		ctx, cancel := context.WithTimeout(ctx, lookTimeout)
		err := l.scrape(ctx, url, see)
		cancel()
		if err != nil {
			return fmt.Errorf("read the metrics of a limiter: %w", err)
		}
	}
	return nil
}

func (l *limiters) scrape(ctx context.Context, url string, see func(name, labels string, value float64)) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/metrics", http.NoBody)
	if err != nil {
		return err
	}
	resp, err := l.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s/metrics: status %d", url, resp.StatusCode)
	}
	return samples(resp.Body, see)
}

// samples reads Prometheus' text format as far as plain counters and gauges go.
func samples(from io.Reader, see func(name, labels string, value float64)) error {
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		line := lines.Text()
		cut := strings.LastIndexByte(line, ' ')
		if cut < 0 || strings.HasPrefix(line, "#") {
			continue
		}
		value, err := strconv.ParseFloat(line[cut+1:], 64)
		if err != nil {
			continue
		}
		name, labels, _ := strings.Cut(strings.TrimSuffix(line[:cut], "}"), "{")
		see(name, labels, value)
	}
	return lines.Err()
}
