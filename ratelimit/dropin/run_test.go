package dropin

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	rlsconf "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// running is a drop-in with a client.
type running struct {
	*Dropin
	envoy             rls.RateLimitServiceClient
	web, debug, proms string // base URLs
	grpc              string // address
	folder            string // of its rules
}

// begin runs a drop-in on free ports with the files given by name, until the test ends.
func begin(t *testing.T, files map[string]string, change func(*Settings)) *running {
	t.Helper()
	client, prefix := testenv.Redis(t)
	root := t.TempDir()
	s := Settings{Host: "127.0.0.1", DebugHost: "127.0.0.1", GRPCHost: "127.0.0.1", ConfigType: "FILE", Backend: "redis", LogLevel: "error",
		LogFormat: "text", NearRatio: 0.8, KeyPrefix: prefix, RuntimeRoot: root, RuntimeSub: "ratelimit", RuntimeApp: "config",
		LimitHeader: "RateLimit-Limit", RestHeader: "RateLimit-Remaining", ResetHeader: "RateLimit-Reset",
		Redis:   RedisSettings{Socket: "tcp", Type: "SINGLE", URL: client.Options().Addr, PoolSize: 4, Timeout: 10 * time.Second},
		Metrics: MetricSettings{Prometheus: true, Addr: "127.0.0.1:0", Path: "/metrics"}}
	if change != nil {
		change(&s)
	}
	r := &running{folder: s.folder()}
	if err := os.MkdirAll(r.folder, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		r.write(t, name, text)
	}
	var err error
	if r.Dropin, err = New(s, nil); err != nil {
		t.Fatal(err)
	}
	all, err := r.open()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.serve(ctx, all) }()
	url := func(i int) string { return "http://" + all[i].ln.Addr().String() }
	r.web, r.debug, r.proms = url(0), url(1), url(2)
	security := insecure.NewCredentials()
	if s.ServerTLS {
		c, err := clientTLS(s.ServerCert, s.ServerKey, s.ServerCert, "ratelimit.test", false)
		if err != nil {
			t.Fatal(err)
		}
		security = credentials.NewTLS(c)
	}
	r.grpc = all[len(all)-1].ln.Addr().String()
	conn, err := grpc.NewClient(r.grpc, grpc.WithTransportCredentials(security))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	r.envoy = rls.NewRateLimitServiceClient(conn)
	return r
}

// write writes a file of rules, in place.
func (r *running) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(filepath.Join(r.folder, name)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.folder, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// ask asks about one entry.
func (r *running) ask(ctx context.Context, domain, key, value string) (*rls.RateLimitResponse, error) {
	return r.envoy.ShouldRateLimit(ctx, &rls.RateLimitRequest{Domain: domain, Descriptors: []*common.RateLimitDescriptor{{
		Entries: []*common.RateLimitDescriptor_Entry{{Key: key, Value: value}}}}}, grpc.WaitForReady(true))
}

// limit is the limit that a key has now; 0: none.
func (r *running) limit(t *testing.T, domain, key string) uint32 {
	t.Helper()
	answer, err := r.ask(t.Context(), domain, key, "x")
	if err != nil {
		t.Fatal(err)
	}
	return answer.GetStatuses()[0].GetCurrentLimit().GetRequestsPerUnit()
}

func (r *running) eventually(t *testing.T, domain, key string, want uint32) {
	t.Helper()
	testenv.Eventually(t, "the new limit decides", func() bool { return r.limit(t, domain, key) == want })
}

func page(t *testing.T, url string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

func rule(domain, key, limit string) string {
	return "domain: " + domain + "\ndescriptors:\n  - {key: " + key + ", rate_limit: {unit: hour, requests_per_unit: " + limit + "}}\n"
}

func TestFiles(t *testing.T) {
	t.Parallel()
	r := begin(t, map[string]string{"shop.yaml": rule("shop", "k", "2"), "deep/other.yaml": rule("other", "k", "5")}, nil)
	for i, want := range []rls.RateLimitResponse_Code{rls.RateLimitResponse_OK, rls.RateLimitResponse_OK, rls.RateLimitResponse_OVER_LIMIT} {
		if a, err := r.ask(t.Context(), "shop", "k", "v"); err != nil || a.GetOverallCode() != want || len(a.GetResponseHeadersToAdd()) != 0 ||
			len(a.GetRawBody()) != 0 {
			t.Errorf("request %d: want %v and nothing told to the client, got %v, %v", i+1, want, a, err)
		}
	}
	if got := r.limit(t, "other", "k"); got != 5 {
		t.Errorf("a file in a folder: got a limit of %d", got)
	}
	if a, err := r.ask(t.Context(), "unheard", "k", "v"); err != nil || a.GetOverallCode() != rls.RateLimitResponse_OK {
		t.Errorf("a domain that no file has: want it admitted, got %v, %v", a, err)
	}
	for url, want := range map[string]string{r.web + "/healthcheck": "OK", r.debug + "/rlconfig": "shop.k: unit=HOUR requests_per_unit=2",
		r.debug + "/": "/rlconfig", r.debug + "/stats": "leaky_ratelimit_decisions_total"} {
		if code, text := page(t, url); code != http.StatusOK || !strings.Contains(text, want) {
			t.Errorf("%s: want %q, got %d %s", url, want, code, text)
		}
	}
}

// TestFilesChange changes the folder in every way while requests come in: each new limit
// decides soon, a mistake changes nothing, and every request is answered.
func TestFilesChange(t *testing.T) {
	t.Parallel()
	r := begin(t, map[string]string{"shop.yaml": rule("shop", "k", "1000000")}, nil)
	r.eventually(t, "shop", "k", 1_000_000)
	stop := r.load(t)
	r.write(t, "shop.yaml", rule("shop", "k", "2000000"))
	r.eventually(t, "shop", "k", 2_000_000)
	r.write(t, "more.yaml", rule("more", "k", "3"))
	r.eventually(t, "more", "k", 3)
	r.write(t, "shop.yaml", "domain: shop\ndescriptors: [{kay: k}]\n")
	testenv.Eventually(t, "the mistake is counted", func() bool {
		_, text := page(t, r.proms+"/metrics")
		return strings.Contains(text, "ratelimit_service_config_load_error 1")
	})
	if got := r.limit(t, "shop", "k"); got != 2_000_000 {
		t.Errorf("after a mistake: want the last limit, got %d", got)
	}
	r.write(t, "shop.yaml", rule("shop", "k", "4000000"))
	if err := os.Remove(filepath.Join(r.folder, "more.yaml")); err != nil {
		t.Fatal(err)
	}
	r.eventually(t, "shop", "k", 4_000_000)
	r.eventually(t, "more", "k", 0)
	stop()
}

// TestRulesThatVanishStay: a file that was cut, and a folder without one, are not followed; one file less is.
func TestRulesThatVanishStay(t *testing.T) {
	t.Parallel()
	r := begin(t, map[string]string{"shop.yaml": rule("shop", "k", "7"), "more.yaml": rule("more", "k", "3")}, nil)
	r.eventually(t, "shop", "k", 7)
	mistakes, limit := 0, uint32(7)
	spoiled := func(name string) {
		t.Helper()
		mistakes++
		testenv.Eventually(t, name+" is counted as a mistake", func() bool {
			_, text := page(t, r.proms+"/metrics")
			return strings.Contains(text, fmt.Sprintf("ratelimit_service_config_load_error %d\n", mistakes))
		})
		if got := r.limit(t, "shop", "k"); got != limit {
			t.Errorf("%s: want the last limit, got %d", name, got)
		}
	}
	r.write(t, "shop.yaml", "domain: shop\ndescriptors:\n")
	spoiled("a cut file")
	r.write(t, "shop.yaml", "")
	spoiled("an empty file")
	r.write(t, "shop.yaml", rule("shop", "k", "9"))
	r.eventually(t, "shop", "k", 9)
	limit = 9
	if err := os.Remove(filepath.Join(r.folder, "more.yaml")); err != nil {
		t.Fatal(err)
	}
	r.eventually(t, "more", "k", 0)
	if err := os.Remove(filepath.Join(r.folder, "shop.yaml")); err != nil {
		t.Fatal(err)
	}
	spoiled("an empty folder")
	r.write(t, "shop.yaml", rule("shop", "k", "8"))
	r.eventually(t, "shop", "k", 8)
}

// load asks all the time until the test has what it waits for; each request is answered.
func (r *running) load(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	var asked, lost atomic.Int64
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			answer, err := r.ask(context.WithoutCancel(ctx), "shop", "k", "load")
			if asked.Add(1); err != nil || answer.GetOverallCode() != rls.RateLimitResponse_OK {
				lost.Add(1)
			}
		}
	}()
	return func() {
		cancel()
		<-done
		if lost.Load() > 0 || asked.Load() == 0 {
			t.Errorf("%d of %d requests were lost", lost.Load(), asked.Load())
		}
	}
}

// TestKubernetesExchangesFolders is a mounted ConfigMap: links that lead elsewhere at once.
func TestKubernetesExchangesFolders(t *testing.T) {
	t.Parallel()
	r := begin(t, map[string]string{"..1/shop.yaml": rule("shop", "k", "1")}, func(s *Settings) { s.IgnoreDotFiles = true })
	point := func(to string) {
		next := filepath.Join(r.folder, "..next")
		if err := os.Symlink(to, next); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, filepath.Join(r.folder, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	point("..1")
	if err := os.Symlink("..data/shop.yaml", filepath.Join(r.folder, "shop.yaml")); err != nil {
		t.Fatal(err)
	}
	r.eventually(t, "shop", "k", 1)
	r.write(t, "..2/shop.yaml", rule("shop", "k", "22"))
	point("..2")
	r.eventually(t, "shop", "k", 22)
}

func TestMergedDomains(t *testing.T) {
	t.Parallel()
	files := map[string]string{"a.yaml": rule("shop", "a", "1"), "b.yaml": rule("shop", "b", "2")}
	r := begin(t, files, func(s *Settings) { s.Merge = true })
	if a, b := r.limit(t, "shop", "a"), r.limit(t, "shop", "b"); a != 1 || b != 2 {
		t.Errorf("want both files' limits, got %d and %d", a, b)
	}
	apart := begin(t, files, func(s *Settings) { s.ForceStart = true })
	if _, err := apart.ask(t.Context(), "shop", "a", "v"); status.Code(err) != codes.InvalidArgument {
		t.Errorf("one domain in two files: want no rules taken, got %v", err)
	}
}

func TestModesAndHeaders(t *testing.T) {
	t.Parallel()
	closed := map[string]string{"shop.yaml": rule("shop", "k", "0")}
	for name, tc := range map[string]struct {
		change func(*Settings)
		want   func(*rls.RateLimitResponse) bool
	}{
		"shadow": {func(s *Settings) { s.ShadowMode = true }, func(a *rls.RateLimitResponse) bool {
			return a.GetOverallCode() == rls.RateLimitResponse_OK && a.GetStatuses()[0].GetCode() == rls.RateLimitResponse_OVER_LIMIT
		}},
		"quota": {func(s *Settings) { s.QuotaMode = true }, func(a *rls.RateLimitResponse) bool {
			return a.GetOverallCode() == rls.RateLimitResponse_OVER_LIMIT
		}},
		"metadata": {func(s *Settings) { s.Metadata = true }, func(a *rls.RateLimitResponse) bool {
			return a.GetDynamicMetadata().GetFields()["domain"].GetStringValue() == "shop"
		}},
		"headers": {func(s *Settings) { s.Headers, s.RestHeader = true, "X-Left" }, func(a *rls.RateLimitResponse) bool {
			got := map[string]string{}
			for _, h := range a.GetResponseHeadersToAdd() {
				got[h.GetKey()] = h.GetValue()
			}
			return len(got) == 3 && got["RateLimit-Limit"] == "0" && got["X-Left"] == "0" && got["RateLimit-Reset"] != "" && len(a.GetRawBody()) == 0
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if a, err := begin(t, closed, tc.change).ask(t.Context(), "shop", "k", "v"); err != nil || !tc.want(a) {
				t.Errorf("got %v, %v", a, err)
			}
		})
	}
}

// TestCalendarMonths begins each month anew where upstream's switch says so, in files and over xDS.
func TestCalendarMonths(t *testing.T) {
	t.Parallel()
	c, _ := startControl(t, "127.0.0.1:0")
	c.publish(t, route("shop", 5, rlsconf.RateLimitUnit_MONTH))
	files := begin(t, map[string]string{"shop.yaml": "domain: shop\ndescriptors: [{key: k, rate_limit: {unit: month, requests_per_unit: 5}}]\n"},
		func(s *Settings) { s.CalendarMonths = true })
	a, err := files.ask(t.Context(), "shop", "k", "v")
	if err != nil {
		t.Fatal(err)
	}
	_, b := begin(t, nil, func(s *Settings) { fromXDS(c)(s); s.CalendarMonths = true }).ofRoute(t, "shop", "ann")
	for _, answer := range []*rls.RateLimitResponse{a, b} {
		end := time.Now().UTC().Add(answer.GetStatuses()[0].GetDurationUntilReset().AsDuration()).Round(time.Hour)
		if end.Day() != 1 || end.Hour() != 0 || answer.GetStatuses()[0].GetCurrentLimit().GetUnit() != rls.RateLimitResponse_RateLimit_MONTH {
			t.Errorf("want it until the end of the month, got %v", answer)
		}
	}
}

// TestSeries has the names that dashboards of envoyproxy/ratelimit know, by Prometheus.
func TestSeries(t *testing.T) {
	t.Parallel()
	r := begin(t, map[string]string{"shop.yaml": `
domain: shop
descriptors:
  - key: a
    descriptors:
      - {key: b, rate_limit: {name: named, unit: hour, requests_per_unit: 2}}
  - {key: trial, value: v, shadow_mode: true, rate_limit: {unit: hour, requests_per_unit: 1}}
`}, func(s *Settings) { s.Metrics.Tags, s.LocalCache = "cluster:one", 1 })
	for range 3 {
		d := &common.RateLimitDescriptor{Entries: []*common.RateLimitDescriptor_Entry{{Key: "a", Value: "x"}, {Key: "b", Value: "y"}}}
		if _, err := r.envoy.ShouldRateLimit(t.Context(), &rls.RateLimitRequest{Domain: "shop", Descriptors: []*common.RateLimitDescriptor{d}},
			grpc.WaitForReady(true)); err != nil {
			t.Fatal(err)
		}
		if _, err := r.ask(t.Context(), "shop", "trial", "v"); err != nil {
			t.Fatal(err)
		}
	}
	_, text := page(t, r.proms+"/metrics")
	var got []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "ratelimit_service_rate_limit_") || strings.HasPrefix(line, "ratelimit_service_total") {
			got = append(got, strings.TrimSpace(line))
		}
	}

	want := []string{
		`ratelimit_service_rate_limit_near_limit{cluster="one",domain="shop",key1="a",key2="b"} 1`,
		`ratelimit_service_rate_limit_near_limit{cluster="one",domain="shop",key1="trial_v"} 1`,
		`ratelimit_service_rate_limit_over_limit{cluster="one",domain="shop",key1="a",key2="b"} 1`,
		`ratelimit_service_rate_limit_over_limit{cluster="one",domain="shop",key1="trial_v"} 2`,
		`ratelimit_service_rate_limit_over_limit_with_local_cache{cluster="one",domain="shop",key1="a",key2="b"} 0`,
		`ratelimit_service_rate_limit_over_limit_with_local_cache{cluster="one",domain="shop",key1="trial_v"} 1`,
		`ratelimit_service_rate_limit_shadow_mode{cluster="one",domain="shop",key1="a",key2="b"} 0`,
		`ratelimit_service_rate_limit_shadow_mode{cluster="one",domain="shop",key1="trial_v"} 2`,
		`ratelimit_service_rate_limit_total_hits{cluster="one",domain="shop",key1="a",key2="b"} 3`,
		`ratelimit_service_rate_limit_total_hits{cluster="one",domain="shop",key1="trial_v"} 3`,
		`ratelimit_service_rate_limit_within_limit{cluster="one",domain="shop",key1="a",key2="b"} 2`,
		`ratelimit_service_rate_limit_within_limit{cluster="one",domain="shop",key1="trial_v"} 1`,
		`ratelimit_service_total_requests{cluster="one",grpc_method="ShouldRateLimit"} 6`,
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestStatsd receives what was counted as a statsd does.
func TestStatsd(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	r := begin(t, map[string]string{"shop.yaml": rule("shop", "k", "9")}, func(s *Settings) {
		s.Metrics.Prometheus, s.Metrics.Statsd, s.Metrics.Flush = false, true, 100*time.Millisecond
		s.Metrics.StatsdHost, s.Metrics.StatsdPort = "127.0.0.1", ln.Addr().(*net.TCPAddr).Port
	})
	if _, err := r.ask(t.Context(), "shop", "k", "v"); err != nil {
		t.Fatal(err)
	}
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{"ratelimit.service.rate_limit.shop.k.total_hits:1|c": true, "ratelimit.service.rate_limit.shop.k.within_limit:1|c": true,
		"ratelimit_server.ShouldRateLimit.total_requests:1|c": true, "ratelimit.service.config_load_success:1|c": true}
	for lines := bufio.NewScanner(conn); len(want) > 0 && lines.Scan(); {
		delete(want, lines.Text())
	}
	if len(want) > 0 {
		t.Errorf("not sent: %v", want)
	}
}
