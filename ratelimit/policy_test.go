package ratelimit_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

// TestNewLimitsAreTakenWhileRunning writes the limits file anew, first with a mistake.
func TestNewLimitsAreTakenWhileRunning(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "limits.yaml")
	write := func(text string) {
		// At once, as editors do: a half-written file is refused in other words.
		if err := errors.Join(os.WriteFile(file+".new", []byte(text), 0o600), os.Rename(file+".new", file)); err != nil {
			t.Fatal(err)
		}
	}
	write(thousand)
	refused := make(chan error, 10)
	e := start(t, thousand, func(c *ratelimit.Config) {
		before := c.Policy
		c.Files = func() []string { return []string{file} }
		c.Reload = func() (ratelimit.Policy, error) {
			set, err := limits.Load(file)
			if err != nil {
				refused <- err
			}
			before.Limits = set
			return before, err
		}
	})
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- e.service.Run(ctx) }()
	defer func() {
		stop()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	}()
	capacity := func() string { return headers(e.ask(t, ask{maxTokens: "1"}))["x-ratelimit-limit-tokens"] }
	more := strings.Replace(thousand, "burst: 1000", "burst: 5000", 1)
	deadline := time.After(20 * time.Second)
	write(strings.Replace(more, "burst", "brust", 1))
	select {
	case err := <-refused:
		if !strings.Contains(err.Error(), `did you mean "burst"?`) {
			t.Errorf("error %v", err)
		}
	case <-deadline:
		t.Fatal("the changed file was not read")
	}
	if got := capacity(); got != "1000" {
		t.Errorf("want the limits of before while the file has a mistake, got %s", got)
	}
	write(more)
	for capacity() != "5000" {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-deadline:
			t.Fatal("the new limits were not taken")
		}
	}
}

// TestLimitsGoBackWithTheConfiguration: what an Envoy refuses after it was taken here is followed no
// longer than the error takes to come, since the other parts follow what was good before.
func TestLimitsGoBackWithTheConfiguration(t *testing.T) {
	t.Parallel()
	good, err := limits.Parse([]byte(thousand))
	if err != nil {
		t.Fatal(err)
	}
	refused, err := limits.Parse([]byte(strings.Replace(thousand, "burst: 1000", "burst: 5000", 1)))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "leaky.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("taken")
	e := start(t, thousand, func(c *ratelimit.Config) {
		policy := c.Policy
		c.Files = func() []string { return []string{file} }
		c.Reload = func() (ratelimit.Policy, error) {
			text, err := os.ReadFile(file)
			if err != nil {
				return ratelimit.Policy{}, err
			}
			if policy.Limits = refused; string(text) == "refused" {
				policy.Limits, err = good, errors.New("refused by an Envoy")
			}
			return policy, err
		}
	})
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- e.service.Run(ctx) }()
	defer func() {
		stop()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	}()
	capacity := func() string { return headers(e.ask(t, ask{maxTokens: "1"}))["x-ratelimit-limit-tokens"] }
	testenv.Eventually(t, "the new limits are taken", func() bool { return capacity() == "5000" })
	write("refused")
	testenv.Eventually(t, "the limits of before", func() bool { return capacity() == "1000" })
}
