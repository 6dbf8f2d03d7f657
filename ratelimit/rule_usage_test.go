package ratelimit

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

const watched = `
domain: leaky
descriptors:
  - key: count
    value: requests
    descriptors:
      - {key: user, rate_limit: {name: busy, unit: hour, requests_per_unit: 100}}
      - {key: key, rate_limit: {name: dead, unit: hour, requests_per_unit: 100}}
      - {key: role, value: admin, rate_limit: {name: free, unlimited: true}}
      - {key: org, quota_mode: true, rate_limit: {name: quota, unit: hour, requests_per_unit: 1}}
`

// lockedLog is a log that tests read while it is written.
type lockedLog struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func watchedService(t *testing.T, log *lockedLog, change func(*Config)) *Service {
	t.Helper()
	set, err := limits.Parse([]byte(watched))
	if err != nil {
		t.Fatal(err)
	}
	client, prefix := testenv.Redis(t)
	c := Config{Policy: Policy{Limits: set, Tiers: config.Tiers{Default: "USER"}}, RedisURL: "redis://" + client.Options().Addr,
		Prefix: prefix, Publisher: &Stream{},
		Log: slog.New(slog.NewTextHandler(log, nil)), Metrics: prometheus.NewRegistry(), Timeout: 10 * time.Second, Longest: time.Minute,
		Holds: config.Holds{SettledKept: time.Minute}}
	if change != nil {
		change(&c)
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// asked decides a request with one descriptor.
func asked(t *testing.T, s *Service, key, value string) *rls.RateLimitResponse {
	t.Helper()
	d := s.decide(t.Context(), message(t, &rls.RateLimitRequest{Domain: "leaky", Descriptors: []*common.RateLimitDescriptor{
		{Entries: []*common.RateLimitDescriptor_Entry{{Key: "count", Value: "requests"}, {Key: key, Value: value}}}}}))
	if d.err != nil {
		t.Fatal(d.err)
	}
	out := &rls.RateLimitResponse{}
	if err := proto.Unmarshal(d.answer.Message(), out); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestIdleRules watches rules for three hours of a clock of the test's own.
func TestIdleRules(t *testing.T) {
	t.Parallel()
	log := &lockedLog{}
	s := watchedService(t, log, nil)
	began := time.Now()
	idle := func() string {
		var names []string
		for _, r := range s.Rules() {
			if r.Idle {
				names = append(names, r.Name)
			}
		}
		return strings.Join(names, " ")
	}
	asked(t, s, "user", "ann")
	asked(t, s, "role", "admin")
	s.sweepRules(t.Context(), began.Add(30*time.Minute))
	if got := log.String(); strings.Contains(got, "matches nothing") {
		t.Errorf("told after half an hour: %s", got)
	}
	for _, r := range s.ruleUsage(began.Add(31 * time.Minute)) {
		if matched := r.Name == "busy" || r.Name == "free"; matched != (r.LastMatch != nil) {
			t.Errorf("rule %s: last match %v", r.Name, r.LastMatch)
		}
	}
	for range 3 { // told once
		s.sweepRules(t.Context(), began.Add(80*time.Minute))
	}
	if got := strings.Count(log.String(), "matches nothing"); got != 2 || !strings.Contains(log.String(), "rule=dead") ||
		!strings.Contains(log.String(), "rule=quota") {
		t.Errorf("want two rules told once, got %d in %s", got, log)
	}
	asked(t, s, "key", "k1")
	s.sweepRules(t.Context(), began.Add(100*time.Minute))
	s.policy.Store(s.newPolicy(Policy{Limits: s.policy.Load().Set()})) // the file changed: marks stay
	s.sweepRules(t.Context(), began.Add(155*time.Minute))
	if got := log.String(); strings.Count(got, "rule=busy") != 1 || strings.Count(got, "rule=free") != 1 ||
		strings.Count(got, "rule=dead") != 1 {
		t.Errorf("want busy and free told as idle now and dead not again, got %s", got)
	}
	if got := idle(); got != "" { // by the real clock nothing is
		t.Errorf("idle: %s", got)
	}
}

// TestQuotaIsTold looks at the metadata of calls within a quota and over it.
func TestQuotaIsTold(t *testing.T) {
	t.Parallel()
	log := &lockedLog{}
	s := watchedService(t, log, func(c *Config) { c.Now = func() int64 { return 1_800_000_000_000_000 } }) // in one hour
	for call, want := range []string{"", "quota", "quota"} {
		r := asked(t, s, "org", "acme")
		if got := r.GetDynamicMetadata().GetFields()["quota_exceeded"].GetStringValue(); r.GetOverallCode() != rls.RateLimitResponse_OK ||
			got != want {
			t.Errorf("call %d: want OK and %q, got %v and %q", call+1, want, r.GetOverallCode(), got)
		}
	}
	if got := strings.Count(log.String(), "would have refused"); got < 1 || got > 2 {
		t.Errorf("want a line for each second, got %d: %s", got, log)
	}
}

// TestDeletedLimitsStay deletes the file while it is watched, and puts it back.
func TestDeletedLimitsStay(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "limits.yaml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(watched)
	log := &lockedLog{}
	s := watchedService(t, log, func(c *Config) {
		c.Files = func() []string { return []string{file} }
		c.Reload = func() (Policy, error) {
			set, err := limits.Load(file)
			return Policy{Limits: set}, err
		}
	})
	ctx, stop := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() { s.watch(ctx) })
	defer watching.Wait()
	defer stop()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "the mistake in the log", func() bool { return strings.Contains(log.String(), "no such file") })
	if r := asked(t, s, "user", "ann"); len(r.GetResponseHeadersToAdd()) == 0 {
		t.Errorf("the limits went with the file: %v", r)
	}
	write(strings.Replace(watched, "name: busy, unit: hour, requests_per_unit: 100}", "name: busy, unit: hour, requests_per_unit: 7}", 1))
	testenv.Eventually(t, "the new policy", func() bool { return s.policy.Load().Set().Rules()[0].PerPeriod == 7 })
}
