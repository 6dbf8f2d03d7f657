package config

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestWatchTakesGoodFilesAndLeavesBadOnes(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "leaky.yaml")
	put := func(text string) { // as editors and mounts do it: another file in its place
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	put("flags: {gateway: {rate_limiting: true}}\n")
	ctx, cancel := context.WithCancel(t.Context())
	taken, done := make(chan *Config, 1), make(chan struct{})
	looked := make(chan struct{}, 1)
	go func() {
		defer close(done)
		w := Watcher{Every: 2 * time.Millisecond, Files: func() []string {
			select {
			case looked <- struct{}{}:
			default:
			}
			return []string{path, ""}
		}}
		w.Run(ctx, func() {
			if c, err := Load(path, os.Getenv); err == nil {
				taken <- c
			}
		})
	}()
	<-looked
	<-taken // what is there at the begin
	put("flags: {gateway: {rate_limitin: false}}\n")
	for range 3 { // it is looked at, and not taken
		<-looked
	}
	put("flags: {gateway: {rate_limiting: false}}\n")
	if c := <-taken; c.Flags.Gateway.RateLimiting || !c.Flags.Gateway.APIKeyValidation || !c.Flags.TokenService.SagaPurchases {
		t.Errorf("want one flag off, got %+v", c.Flags)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		<-looked
	}
	put("flags: {token_service: {saga_purchases: false}}\n")
	if c := <-taken; c.Flags.TokenService.SagaPurchases || !c.Flags.Gateway.RateLimiting {
		t.Errorf("want the other flag off, got %+v", c.Flags)
	}
	cancel()
	<-done
}

// TestNoChangeIsMissed: neither one that comes before the first look, nor one that a file's
// size and time stamp do not tell.
func TestNoChangeIsMissed(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "leaky.yaml")
	stamp := time.Now().Add(-time.Hour)
	put := func(text string) { // in place, within one tick of the file system's clock
		t.Helper()
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chtimes(path, stamp, stamp)); err != nil {
			t.Fatal(err)
		}
	}
	put("a: 1")
	before, err := os.ReadFile(path) // as a service reads it at its start
	if err != nil {
		t.Fatal(err)
	}
	put("a: 2")
	ctx, cancel := context.WithCancel(t.Context())
	seen, done := make(chan string, 8), make(chan struct{})
	go func() {
		defer close(done)
		Watcher{Every: time.Millisecond, Files: func() []string { return []string{path} }}.Run(ctx, func() {
			text, err := os.ReadFile(path)
			if err == nil && len(text) == len(before) { // else it is in the middle of a write: the next look sees the rest
				seen <- string(text)
			}
		})
	}()
	for _, want := range []string{"a: 2", "a: 3", "a: 4"} {
		if want != "a: 2" {
			put(want)
		}
		select {
		case got := <-seen:
			if got != want {
				t.Errorf("want %q, got %q", want, got)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%q is never taken", want)
		}
	}
	cancel()
	<-done
}

// TestAChangeCountsOnceTwoLooksAgree: a file that grows from look to look is not taken before it stands.
func TestAChangeCountsOnceTwoLooksAgree(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "leaky.yaml")
		put := func(text string) {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Error(err)
			}
		}
		put("a")
		ctx, cancel := context.WithCancel(t.Context())
		var taken []string
		go Watcher{Files: func() []string { return []string{path} }}.Run(ctx, func() {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Error(err)
			}
			taken = append(taken, string(text))
		})
		time.Sleep(watchEvery / 2)
		for n := range 100 {
			put(strings.Repeat("a", n+2))
			time.Sleep(watchEvery / 10)
		}
		time.Sleep(3 * watchEvery)
		cancel()
		synctest.Wait()
		if want := []string{"a", strings.Repeat("a", 101)}; !slices.Equal(taken, want) {
			t.Errorf("want it taken at the begin and when it is whole, got %q", taken)
		}
	})
}

// What is bought is prepaid, what is granted is a quota.
func TestPoolsRefillByDefault(t *testing.T) {
	t.Parallel()
	c, err := Parse(nil)
	if err != nil || c.Pools.Refill != RefillNever || c.Pools.GrantRefill != RefillWindow {
		t.Errorf("want never and window, got %+v, %v", c.Pools, err)
	}
	if _, err := Parse([]byte("pools: {grant_refill: daily}\n")); err == nil {
		t.Error("want a refill that there is not refused")
	}
}

func TestSectionsOfTheGateway(t *testing.T) {
	t.Parallel()
	c, err := Parse([]byte("providers:\n  openai: {url: 'https://host', egress: {attempts: 1}}\ntls: {mode: mutual}\n"))
	if err != nil {
		t.Fatal(err)
	}
	p := c.Providers["openai"]
	if p.ConsumePath != "/api/v1/openai/chat" || p.Egress != (ProviderEgress{Timeout: 2 * time.Second, Attempts: 1,
		Backoff: 250 * time.Millisecond, MaxConcurrent: 20}) {
		t.Errorf("want the defaults beside what is stated, got %+v", p)
	}
	if !c.TLS.Mutual() || c.TLS.Lifetime != 24*time.Hour || c.Gateway.Egress != "unix:run/egress.sock" ||
		c.Gateway.RateLimit.KeyStrategy != KeyAuto || len(c.Gateway.RateLimit.Whitelist) != 1 {
		t.Errorf("got %+v %+v", c.TLS, c.Gateway)
	}
}
