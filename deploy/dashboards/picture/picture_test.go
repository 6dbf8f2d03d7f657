package main

import (
	"fmt"
	"html"
	"image"
	"image/color"
	"math"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/api"
	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
)

// answers is a Prometheus that gives every query two series, whose numbers grow.
func answers(t *testing.T, now time.Time) promv1.API {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var each []string
		for i, le := range []string{"0.5", "1"} {
			labels := fmt.Sprintf(`"metric":{"le":%q,"outcome":"o<%d>"}`, le, i)
			if strings.HasSuffix(r.URL.Path, "query_range") {
				each = append(each, fmt.Sprintf(`{%s,"values":[[%d,"%d"],[%d,"NaN"],[%d,"%d"]]}`, labels, now.Unix()-600, 1+i, now.Unix()-300, now.Unix(),
					5+20*i))
			} else {
				each = append(each, fmt.Sprintf(`{%s,"value":[%d,"%d"]}`, labels, now.Unix(), 7+i))
			}
		}
		kind := "vector"
		if strings.HasSuffix(r.URL.Path, "query_range") {
			kind = "matrix"
		}
		fmt.Fprintf(w, `{"status":"success","data":{"resultType":%q,"result":[%s]}}`, kind, strings.Join(each, ","))
	}))
	t.Cleanup(server.Close)
	client, err := api.NewClient(api.Config{Address: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	return promv1.NewAPI(client)
}

// TestEveryPanelIsDrawn of every dashboard that ships, with its number.
func TestEveryPanelIsDrawn(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 30, 5, 0, 0, 0, time.UTC)
	files, err := filepath.Glob("../*.json")
	if err != nil || len(files) != 6 {
		t.Fatalf("want six dashboards, got %v, %v", files, err)
	}
	kinds := map[string]bool{}
	for _, file := range files {
		b, err := read(file)
		if err != nil {
			t.Fatal(err)
		}
		missing, err := asker{answers(t, now), now, 10 * time.Minute}.fill(t.Context(), b)
		if err != nil || len(missing) != 0 {
			t.Fatalf("%s: want numbers for all panels, got none for %v, %v", file, missing, err)
		}
		page, err := b.page(now)
		if err != nil {
			t.Fatal(err)
		}
		text := html.UnescapeString(string(page))
		for _, p := range b.Panels {
			kinds[p.Type] = true
			if p.Title == "" || !strings.Contains(text, p.Title) {
				t.Errorf("%s: panel %q is not there", file, p.Title)
			}
		}
		if strings.Contains(text, ">none<") || strings.Contains(text, "NaN") || strings.Contains(text, "ZgotmplZ") {
			t.Errorf("%s: want each panel drawn, got %.2000s", file, text)
		}
		if strings.Contains(string(page), "o<0>") {
			t.Errorf("%s: a label is written as HTML", file)
		}
	}
	for _, kind := range []string{"row", "stat", "timeseries", "bargauge", "gauge", "piechart", "table", "heatmap"} {
		if !kinds[kind] {
			t.Errorf("no dashboard has a %s", kind)
		}
	}
}

// TestAPanelWithoutNumbersIsNamed and is no crash.
func TestAPanelWithoutNumbersIsNamed(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kind := "vector"
		if strings.HasSuffix(r.URL.Path, "query_range") {
			kind = "matrix"
		}
		fmt.Fprintf(w, `{"status":"success","data":{"resultType":%q,"result":[]}}`, kind)
	}))
	t.Cleanup(server.Close)
	client, err := api.NewClient(api.Config{Address: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	b, err := read("../overview.json")
	if err != nil {
		t.Fatal(err)
	}
	missing, err := asker{promv1.NewAPI(client), time.Now(), time.Minute}.fill(t.Context(), b)
	if err != nil || len(missing) != 15 {
		t.Errorf("want all 15 panels named, got %d %v, %v", len(missing), missing, err)
	}
	if page, err := b.page(time.Now()); err != nil || !strings.Contains(string(page), ">none<") {
		t.Errorf("want panels that say none, got %v", err)
	}
}

func TestTexts(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, c := range []struct {
		unit string
		v    float64
		want string
	}{
		{"percentunit", 0.1234, "12.3 %"}, {"bytes", 3 << 20, "3 MiB"}, {"bytes", 0, "0 B"}, {"s", 0.0123, "12.3 ms"}, {"s", 90, "1.5 min"},
		{"ms", 1500, "1.5 s"}, {"cpm", 12345, "12.3 k/min"}, {"short", 2_500_000, "2.5 M"}, {"short", 0, "0"}, {"short", 1, "1"}, {"short", -3, "-3"},
		{"dateTimeFromNow", float64(now.Add(-5 * time.Minute).UnixMilli()), "5m0s ago"},
	} {
		if got := text(c.unit, c.v, now); got != c.want {
			t.Errorf("%v in %s: want %q, got %q", c.v, c.unit, c.want, got)
		}
	}
	if got := legend("{{outcome}} of {{ le }}", model.Metric{"outcome": "ok", "le": "1"}); got != "ok of 1" {
		t.Errorf("want the labels in their places, got %q", got)
	}
	for v, want := range map[float64]float64{0: 1, 0.3: 0.5, 1: 1, 11: 20, 60: 100} {
		if got := nice(v); math.Abs(got-want) > 1e-9 {
			t.Errorf("nice(%v): want %v, got %v", v, want, got)
		}
	}
}

// TestThePaletteKeepsWhatIsThere: the most frequent colours as they are, the rest by the nearest.
func TestThePaletteKeepsWhatIsThere(t *testing.T) {
	t.Parallel()
	full := image.NewRGBA(image.Rect(0, 0, 64, 64))
	for i := range 64 * 64 {
		full.Set(i%64, i/64, color.RGBA{uint8(i % 251), uint8(i / 251), 9, 255})
	}
	for i := range 64 {
		full.Set(i, 0, color.RGBA{200, 1, 2, 255})
	}
	small := paletted(full)
	if len(small.Palette) != mostColours {
		t.Errorf("want %d colours, got %d", mostColours, len(small.Palette))
	}
	if r, g, b, _ := small.At(5, 0).RGBA(); r>>8 != 200 || g>>8 != 1 || b>>8 != 2 {
		t.Errorf("want the frequent colour as it was, got %v", small.At(5, 0))
	}
}
