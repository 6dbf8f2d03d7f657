// Command picture stands beside the request path: it draws the Grafana dashboards that ship with the
// product, with the numbers of a running Prometheus, as the pictures of docs/dashboards.md. It reads
// the same files as Grafana does. `make dashboards` runs it.
//
//	dashboard (JSON) -> queries -> Prometheus -> page (HTML, SVG) -> chromium -> PNG with a palette
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/api"
	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
)

// board is what is drawn of a dashboard, as Grafana's files have it.
type board struct {
	Title       string
	Description string
	Panels      []*panel
}

// panel is one of a board; of type "row" a question that the panels below answer.
type panel struct {
	Type, Title string
	GridPos     struct{ H, W, X, Y int }
	Targets     []struct{ Expr, LegendFormat string }
	FieldConfig struct {
		Defaults struct {
			Unit       string
			Thresholds struct{ Steps []step }
		}
	}

	series []series // what Prometheus answered
}

// step is a colour from a value on; the first has none.
type step struct {
	Color string
	Value *float64
}

func main() {
	at := flag.String("prometheus", "http://127.0.0.1:9090", "where Prometheus answers (leaky open prometheus)")
	from := flag.String("from", "deploy/dashboards", "folder of the dashboards")
	to := flag.String("out", "docs/dashboards", "folder for the pictures")
	span := flag.Duration("for", 15*time.Minute, "how long before now the charts begin")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := draw(ctx, *at, *from, *to, *span); err != nil {
		stop()
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1) //nolint:gocritic // stop was called
	}
}

// draw makes a picture of every dashboard of a folder. A panel without a number is an error: a
// picture of it would show nothing.
func draw(ctx context.Context, prometheus, from, to string, span time.Duration) error {
	client, err := api.NewClient(api.Config{Address: prometheus})
	if err != nil {
		return fmt.Errorf("reach prometheus: %w", err)
	}
	files, err := filepath.Glob(filepath.Join(from, "*.json"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("find dashboards in %s: none, %w", from, err)
	}
	tab, closeTab, err := openTab(ctx)
	if err != nil {
		return err
	}
	defer closeTab()
	asked := asker{api: promv1.NewAPI(client), now: time.Now(), span: span}
	var empty error
	for _, file := range files {
		b, err := read(file)
		if err != nil {
			return err
		}
		missing, err := asked.fill(ctx, b)
		if err != nil {
			return err
		}
		for _, title := range missing {
			empty = errors.Join(empty, fmt.Errorf("%s: %s shows nothing: is the stack up, and has it served a demo?", b.Title, title))
		}
		html, err := b.page(asked.now)
		if err != nil {
			return err
		}
		picture := filepath.Join(to, strings.TrimSuffix(filepath.Base(file), ".json")+".png")
		if err := take(tab, html, picture); err != nil {
			return err
		}
	}
	return empty
}

func read(file string) (*board, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read dashboard: %w", err)
	}
	var b board
	if err := json.Unmarshal(text, &b); err != nil {
		return nil, fmt.Errorf("read dashboard %s: %w", file, err)
	}
	return &b, nil
}
