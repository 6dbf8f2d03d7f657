//go:build long

package identity

import (
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

const dexSecret = "a secret of dex"

// buildDex builds the provider, which has a module of its own.
func buildDex(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "dex")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".")
	build.Dir = filepath.Join("..", "internal", "testing", "dex")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build dex: %v\n%s", err, out)
	}
	return program
}

// runDex runs dex until the test, or the function that it gives, ends it.
func runDex(t *testing.T, program, address, issuer, redirect string) (end func()) {
	t.Helper()
	cmd := exec.Command(program, "-listen", address, "-issuer", issuer, "-redirect", redirect, "-secret", dexSecret)
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	end = func() {
		if !ended {
			ended = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	t.Cleanup(end)
	testenv.Eventually(t, "dex answers", func() bool {
		resp, err := http.Get(issuer + "/.well-known/openid-configuration")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return end
}

// TestDex signs in by a provider that others wrote: its groups are teams, it is asked again by its refresh
// tokens, and the account ends when it has forgotten them.
func TestDex(t *testing.T) {
	t.Parallel()
	program := buildDex(t)
	free := listen(t)
	address := free.Addr().String()
	free.Close()
	issuer, redirect := "http://"+address+"/dex", ""
	c := startCompany(t, func(cfg *Config) {
		redirect = cfg.Auth.PublicURL + "/oauth2/callback"
		cfg.Auth.Upstreams = append(cfg.Auth.Upstreams, config.AuthUpstream{Name: "dex", Issuer: issuer, ClientID: "leaky",
			Scopes: []string{"openid", "profile", "email", "groups", "offline_access"}, Organisation: "Trout", AccessTTL: 24 * time.Hour,
			Claims: config.UpstreamClaims{Username: "name", Email: "email", Groups: "groups"}, Groups: []config.UpstreamGroup{{Group: "*", Team: "*"}}})
		cfg.Upstreams = append(cfg.Upstreams, dexSecret)
	})
	end := runDex(t, program, address, issuer, redirect)
	b := c.browser()
	b.by = "dex"
	to := b.leave().header.Get("Location")
	for range 10 { // dex' own pages
		if !strings.HasPrefix(to, issuer) {
			break
		}
		next := b.open(to, nil).header.Get("Location")
		if strings.HasPrefix(next, "/") {
			next = "http://" + address + next
		}
		to = next
	}
	who := b.whoIs(b.redeem(b.open(to, nil)).body["access_token"].(string))
	id, _ := who["sub"].(string)
	if who["preferred_username"] != "Kilgore-Trout" || who["email"] != "kilgore@kilgore.trout" || c.member(id) != "Trout MEMBER authors" {
		t.Fatalf("got %v, a member of %q", who, c.member(id))
	}
	enabled := func() bool {
		return c.count(`SELECT count(*) FROM users WHERE id = $1 AND disabled_at IS NULL`, id) == 1
	}
	for i := range 3 {
		if err := c.askUpstreams(t.Context(), time.Now().Add(time.Duration(i+1)*16*time.Minute)); err != nil || !enabled() {
			t.Fatalf("asked %d times: enabled %v, %v", i+1, enabled(), err)
		}
	}
	end()
	if err := c.askUpstreams(t.Context(), time.Now().Add(64*time.Minute)); err != nil || !enabled() {
		t.Fatalf("while dex is down: enabled %v, %v", enabled(), err)
	}
	runDex(t, program, address, issuer, redirect)
	if err := c.askUpstreams(t.Context(), time.Now().Add(80*time.Minute)); err != nil || enabled() {
		t.Errorf("dex has forgotten the login: enabled %v, %v", enabled(), err)
	}
}
