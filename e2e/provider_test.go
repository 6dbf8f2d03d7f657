package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/stubs"
)

// moody is a stub at the address of a provider that nobody else calls, so that its faults
// are this test's alone.
type moody struct {
	t      *testing.T
	server *httptest.Server
}

func startMoody(t *testing.T, at string) moody {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	stub, err := stubs.New(stubs.Config{Flavour: stubs.OpenAI, Done: ctx.Done()})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(stub.Handler())
	server.Listener.Close()
	server.Listener = ln
	server.Start()
	t.Cleanup(func() { stop(); server.Close() })
	return moody{t, server}
}

// behave replaces the faults and forgets what was served, once what was begun has ended: the stub
// counts a call at its end, which may be a moment after its caller was answered.
func (m moody) behave(faults string) {
	m.t.Helper()
	testenv.Eventually(m.t, "the end of what was begun", func() bool { return m.seen().Counts.Open == 0 })
	for _, call := range []struct{ method, path, body string }{{"PUT", "/__stub/config", faults}, {"DELETE", "/__stub/requests", ""}} {
		req, err := http.NewRequestWithContext(m.t.Context(), call.method, m.server.URL+call.path, strings.NewReader(call.body))
		if err != nil {
			m.t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			m.t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode >= 300 {
			m.t.Fatalf("%s %s: %d", call.method, call.path, res.StatusCode)
		}
	}
}

// seen is what it was asked since then.
func (m moody) seen() stubs.RequestsPage {
	m.t.Helper()
	req, err := http.NewRequestWithContext(m.t.Context(), "GET", m.server.URL+"/__stub/requests", http.NoBody)
	if err != nil {
		m.t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		m.t.Fatal(err)
	}
	defer res.Body.Close()
	var page stubs.RequestsPage
	if err := json.NewDecoder(res.Body).Decode(&page); err != nil {
		m.t.Fatal(err)
	}
	return page
}

func consumeAt(t *testing.T, who stacktest.Account, provider string, tokens int) answer {
	t.Helper()
	return request(t, "POST", pathConsume, "", map[string]any{"provider": provider, "tokens": tokens, "prompt": "hi"}, byKey(who)...)
}

// TestProviderFailureGivesBack: contract 4.4 and 4.11 (decision 11). Whatever a provider
// does wrong, the caller reads 502, bucket and pool are as before, and the books say so.
func TestProviderFailureGivesBack(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	buy(t, who, "flaky", 5000)
	wantProblem(t, consumeAt(t, who, "flaky", 500), 502, "provider call failed") // nobody listens there
	m := startMoody(t, running.Flaky)
	for range 10 { // or half of all calls will have failed, and the breaker opens
		if ok := consumeAt(t, who, "flaky", 1); ok.status != 200 {
			t.Fatalf("want 200, got %d %s", ok.status, ok.text)
		}
	}
	for _, tc := range []struct {
		name, faults string
		attempts     uint64
		status       int
	}{
		{"recovers at the third attempt", `{"failNext":2}`, 3, 200},
		{"fails at every attempt", `{"status":500}`, 3, 502},
		{"refuses, which is an answer", `{"status":404}`, 1, 502},
		{"refuses as too many", `{"status":429}`, 1, 502},
		{"hangs", `{"hang":true}`, 1, 502},
		{"answers no JSON", `{"brokenJson":true}`, 1, 502},
		{"cuts its answer", `{"truncateAfterChunks":1}`, 1, 502},
	} {
		m.behave(tc.faults)
		r := consumeAt(t, who, "flaky", 500)
		if r.status != tc.status {
			t.Fatalf("%s: want %d, got %d %s", tc.name, tc.status, r.status, r.text)
		}
		testenv.Eventually(t, tc.name+": the attempts", func() bool {
			got := m.seen().Counts
			return got.Total >= tc.attempts && got.Open == 0
		})
		if got := m.seen().Counts.Total; got != tc.attempts {
			t.Fatalf("%s: want %d attempts, got %d", tc.name, tc.attempts, got)
		}
		if last := m.seen().Last; !slices.ContainsFunc(last[len(last)-1].Headers, func(name string) bool {
			return strings.EqualFold(name,
				"X-Correlation-Id")
		}) {
			t.Errorf("%s: the provider is told no correlation id", tc.name)
		}
		m.behave(`{}`)
		if tc.status == 200 {
			who = newAccount(t)
			buy(t, who, "flaky", 5000)
			continue
		}
		wantProblem(t, r, 502, "provider call failed")
		for _, name := range []string{"Limit", "Remaining", "Used", "Reset"} {
			number(t, r, "X-TokenBucket-"+name)
		}
		// Good calls in between keep the breaker closed, and show that nothing is in the bucket.
		for range 3 {
			if ok := consumeAt(t, who, "flaky", 1); ok.status != 200 || number(t, ok, "X-TokenBucket-Used") > 25 {
				t.Fatalf("%s: afterwards want 200 and an empty bucket, got %d %s", tc.name, ok.status, ok.text)
			}
		}
		if row := booked(t, who, "flaky", r.header.Get("X-Request-Id")); row.Allowed || row.Reason != "provider_failure" || row.Status != 502 ||
			row.Tokens != 500 {
			t.Errorf("%s: the books say %+v", tc.name, row)
		}
	}
	testenv.Eventually(t, "the good calls alone in the ledger",
		func() bool { return quotaOf(t, who, "?provider=flaky").BookedTokens == 5000-18 })
	hangUp(t, m, who)
	bulkhead(t, m, who)
}

// bulkhead: contract 4.11, as many calls at once as configured, four here, and no waiting.
func bulkhead(t *testing.T, m moody, who stacktest.Account) {
	t.Helper()
	m.behave(`{"delayMs":3000}`) // so that more than four meet on a busy machine, too
	got := map[int]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 12 {
		wg.Go(func() {
			a, err := tryRequest(t.Context(), "POST", pathConsume, "", map[string]any{"provider": "flaky", "tokens": 10}, byKey(who)...)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			got[a.status]++
		})
	}
	wg.Wait()
	if got[200] < 4 || got[502] == 0 || got[200]+got[502] != 12 { // on a busy machine not all twelve meet
		t.Errorf("want four at once and 502 for who is too many, got %v", got)
	}
	m.behave(`{}`)
}

// TestBreakerLeavesAProviderAlone: contract 4.11. After ten failures in a row the provider
// is not called for ten seconds, other providers are, and then it is tried again.
func TestBreakerLeavesAProviderAlone(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	buy(t, who, "broken", 5000)
	buy(t, who, "openai", 5000)
	m := startMoody(t, running.Broken)
	m.behave(`{"status":503}`)
	begun := time.Now()
	for range 4 { // of three attempts each
		wantProblem(t, consumeAt(t, who, "broken", 100), 502, "provider call failed")
	}
	testenv.Eventually(t, "the end of all attempts", func() bool { return m.seen().Counts.Open == 0 })
	reached := m.seen().Counts.Total
	if reached < 10 || reached > 12 {
		t.Errorf("want ten to twelve attempts, got %d", reached)
	}
	for range 5 {
		wantProblem(t, consumeAt(t, who, "broken", 100), 502, "provider call failed")
	}
	// Ten seconds after the tenth failure, which came after begun, it may be called again.
	if now := m.seen().Counts.Total; now != reached && time.Since(begun) < 10*time.Second {
		t.Errorf("a provider behind an open breaker was called %d times", now-reached)
	}
	if r := consumeAt(t, who, "openai", 1); r.status != 200 {
		t.Errorf("another provider: want 200, got %d %s", r.status, r.text)
	}
	m.behave(`{}`)
	testenv.Eventually(t, "a closed breaker", func() bool { return consumeAt(t, who, "broken", 100).status == 200 })
}

// hangUp: a caller who goes while their prompt is answered is charged, or they would have it
// for nothing.
func hangUp(t *testing.T, m moody, who stacktest.Account) {
	t.Helper()
	before := quotaOf(t, who, "?provider=flaky").BookedTokens
	m.behave(`{"delayMs":3000}`) // of the five seconds that a call may take: who goes has them, and so has the answer
	conn, err := net.Dial("tcp", strings.TrimPrefix(running.Gateway, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	const body = `{"provider":"flaky","tokens":70}`
	if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: gateway\r\nX-Api-Key: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", pathConsume, who.Key, len(body), body); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "the call at the provider", func() bool { return m.seen().Counts.Open > 0 })
	conn.Close()
	// The balance is less from the hold on; the ledger has the call once the provider answered.
	testenv.Eventually(t, "the call in the ledger", func() bool {
		return quotaOf(t, who, "?provider=flaky").BookedTokens == before-70
	})
	m.behave(`{}`)
}
