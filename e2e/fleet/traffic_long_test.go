//go:build long

package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/reconcile"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

const (
	workers = 4
	// attempts are how often one call is tried at most: what an SDK does that is told max_retries=4.
	attempts   = 5
	firstPause = 500 * time.Millisecond
	// Of the tier TIGHT, in tokens and tokens a second: it is refused nearly always, and admits a call now and then.
	tightBurst, tightLeak = 2000, 10
)

// plain rewrites leaky.yaml to what every version of the product knows, so that an older binary reads it, too.
// The provider and the payment are the stubs of a stack. Holds that nobody settles end within seconds.
func plain(t *testing.T, s, stubs *stacktest.Stack) {
	t.Helper()
	text, err := os.ReadFile(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	var all, made map[string]any
	if err := yaml.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	base := fmt.Sprintf(`
gateway: {first_byte_timeout: 8s, max_stream_duration: 30s}
models: [{name: gpt-4o, provider: openai}]
limits: {file: limits.yaml, timeout: 10s}
holds: {life: 10s, margin: 5s, sweep_every: 1s}
monitoring: {prometheus: "off", alertmanager: "off"}
auth: {throttle: {registers: 100000, addresses: 100000}}
purchases: {payment: {url: %q}}
providers: {openai: {protocol: openai, url: %q, tokens_per_byte: 0.25}}
tiers:
  default: USER
  levels:
    USER: {priority: 10, quota_max_tokens: 100000}
    TIGHT: {priority: 20, bucket_capacity_multiplier: 0.002, bucket_leak_rate_multiplier: 0.001}
    VAST: {priority: 50, bucket_capacity_multiplier: 1000000, bucket_leak_rate_multiplier: 1000000}
    ADMIN: {priority: 100}
`, stubs.Payment, stubs.Stub["openai"])
	if err := yaml.Unmarshal([]byte(base), &made); err != nil {
		t.Fatal(err)
	}
	gateway, _ := all["gateway"].(map[string]any)
	made["gateway"].(map[string]any)["listen"] = gateway["listen"]
	made["services"], made["envoy"] = all["services"], all["envoy"]
	if text, err = yaml.Marshal(made); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.Config, text, 0o644); err != nil {
		t.Fatal(err)
	}
}

// traffic is clients of gateways that share their stores, as a load balancer spreads them: what was not
// answered, or with 5xx, is asked again at the next gateway.
type traffic struct {
	gateways []*stacktest.Stack
	vast     []stacktest.Account // without a limit that matters
	tight    []stacktest.Account

	made         atomic.Int64 // calls that have begun
	begun, ended time.Time
	mu           sync.Mutex
	sum          count
	said         []string // of attempts that were repeated, and of calls that failed
}

// count is of calls, each of which may have taken several attempts.
type count struct {
	Calls    int // made
	Refused  int // by a limit, as they should be
	Repeated int // answered at another attempt than the first
	Failed   int // not answered at any
}

func (c count) String() string {
	return fmt.Sprintf("%d calls, %d of them refused by a limit, %d answered at a further attempt, %d not answered (%.3f %% answered)",
		c.Calls, c.Refused, c.Repeated, c.Failed, 100*c.answered())
}

func (c count) answered() float64 { return 1 - float64(c.Failed)/float64(max(c.Calls, 1)) }

// newTraffic makes two accounts of each tier. Those that are VAST have bought what they spend, so that the
// ledger books their calls, too.
func newTraffic(t *testing.T, gateways ...*stacktest.Stack) *traffic {
	t.Helper()
	c := &traffic{gateways: gateways}
	for range 2 {
		for tier, to := range map[string]*[]stacktest.Account{"VAST": &c.vast, "TIGHT": &c.tight} {
			who, err := gateways[0].NewAccount(t.Context(), tier)
			if err != nil {
				t.Fatal(err)
			}
			*to = append(*to, who)
		}
	}
	for _, who := range c.vast {
		for range 20 { // a purchase is of a million at most
			if err := gateways[0].Must(t.Context(), http.StatusAccepted, http.MethodPost, purchases, who.Key, bought(1_000_000), nil); err != nil {
				t.Fatal(err)
			}
		}
		testenv.Eventually(t, "what was bought is there", func() bool {
			var quota struct{ RemainingTokens int64 }
			status, err := gateways[0].Call(t.Context(), http.MethodGet, balance, who.Key, nil, &quota)
			return err == nil && status == http.StatusOK && quota.RemainingTokens == 20_000_000
		})
	}
	return c
}

const (
	purchases = "/api/v1/tokens/purchase"
	balance   = "/api/v1/tokens/quota?provider=openai"
)

func bought(tokens int) map[string]any { return map[string]any{"provider": "openai", "tokens": tokens} }

// flow calls until stop is called, which may be called again.
func (c *traffic) flow(ctx context.Context) (stop func()) {
	end := make(chan struct{})
	c.begun = time.Now()
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for {
				select {
				case <-end:
					return
				default:
					c.call(ctx, int(c.made.Add(1)))
				}
			}
		})
	}
	return sync.OnceFunc(func() {
		close(end)
		group.Wait()
		c.ended = time.Now()
	})
}

// call makes the nth call: answers as a whole and as a stream, balances, a purchase now and then, and a
// quarter of the answers for accounts that have nearly nothing left.
func (c *traffic) call(ctx context.Context, n int) {
	who, mayRefuse := c.vast[n%len(c.vast)], n%4 == 1
	if mayRefuse {
		who = c.tight[n/4%len(c.tight)]
	}
	method, path, want := http.MethodPost, "/v1/chat/completions", http.StatusOK
	body := map[string]any{"model": "gpt-4o", "max_tokens": 60, "messages": []any{map[string]any{"role": "user", "content": "Hello " + uuid.NewString()}}}
	switch n % 20 {
	case 2, 3, 8, 9:
		body["stream"] = true
	case 4:
		method, path, body = http.MethodGet, balance, nil
	case 6:
		path, want, body = purchases, http.StatusAccepted, bought(10)
	}
	key := uuid.NewString()
	var said []string
	for try, pause := 0, firstPause; try < attempts; try, pause = try+1, 2*pause {
		gateway := c.gateways[(n+try)%len(c.gateways)]
		var status int
		var text []byte
		var err error
		if body == nil {
			status, _, text, err = gateway.Send(ctx, method, path, who.Key, nil)
		} else {
			status, _, text, err = gateway.Send(ctx, method, path, who.Key, body, "Idempotency-Key", key)
		}
		refused := mayRefuse && status == http.StatusTooManyRequests
		whole := body["stream"] == nil || bytes.Contains(text, []byte("[DONE]"))
		if err == nil && (refused || status == want && whole) {
			c.add(try, refused, said)
			return
		}
		said = append(said, fmt.Sprintf("%s %s %s at %s: %v, status %d %.300s", time.Now().Format(time.TimeOnly), method, path, gateway.Gateway, err, status, text))
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	c.add(attempts, false, said)
}

func (c *traffic) add(try int, refused bool, said []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sum.Calls++
	switch {
	case try == attempts:
		c.sum.Failed++
	case try > 0:
		c.sum.Repeated++
	}
	if refused {
		c.sum.Refused++
	}
	if len(c.said) < 20 {
		c.said = append(c.said, said...)
	}
}

// sofar is what was counted since the last time, and what was said of calls that were not answered at once.
func (c *traffic) sofar() (count, string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	sum, said := c.sum, c.said
	c.sum, c.said = count{}, nil
	return sum, strings.Join(said[:min(len(said), 6)], "\n")
}

// books has all books of the traffic compared by a binary, and wants no difference; no account of the tier
// TIGHT may have had more than its bucket and what leaked meanwhile.
func (c *traffic) books(t *testing.T, bin string) {
	t.Helper()
	var out bytes.Buffer
	var r reconcile.Report
	var failed, malformed error
	for range attempts { // a book that cannot be read just then is asked for again
		out.Reset()
		cmd := exec.CommandContext(t.Context(), bin, "reconcile", "--since", c.begun.UTC().Format(time.RFC3339Nano), "--wait", "2m", "-o", "json")
		cmd.Env, cmd.Stdout, cmd.Stderr = c.gateways[0].Env, &out, t.Output()
		failed, r = cmd.Run(), reconcile.Report{}
		if malformed = json.Unmarshal(out.Bytes(), &r); malformed != nil || len(r.Unread) == 0 {
			break
		}
	}
	if malformed != nil || failed != nil || !r.Clean || r.Calls == 0 {
		t.Errorf("want books that agree, got %v, %v\n%s", failed, malformed, out.String())
		return
	}
	seconds := c.ended.Sub(c.begun).Seconds()
	most := int64(tightBurst + tightLeak*seconds)
	for _, who := range c.tight {
		had := int64(-1)
		for _, a := range r.Accounts {
			if strings.Contains(a.Account, who.ID) {
				had = a.EventTokens
			}
		}
		if had <= 0 || had > most {
			t.Errorf("want at most %d tokens in %.0f s, and some, got %d", most, seconds, had)
		}
		t.Logf("an account with room for %d tokens in %.0f s had %d", most, seconds, had)
	}
	t.Logf("%d calls stand in the books, %d differences", r.Calls, len(r.Findings))
}

// up starts a stack, which ends with the test.
func up(t *testing.T, s *stacktest.Stack) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("logs of %s: %s", s.Gateway, tails(s.Dir))
		}
		if out, err := s.Leaky(context.WithoutCancel(t.Context()), "down"); err != nil {
			t.Error(out)
		}
	})
	if out, err := s.Up(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// tails are the ends of the logs of a stack.
func tails(dir string) string {
	var all strings.Builder
	paths, _ := filepath.Glob(filepath.Join(dir, "logs", "*.log"))
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		fmt.Fprintf(&all, "\n== %s\n%s", filepath.Base(path), text[max(0, len(text)-1500):])
	}
	return all.String()
}
