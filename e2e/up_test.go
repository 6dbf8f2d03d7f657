package e2e

import (
	"context"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// TestUpFollowsTheFile: `leaky up` on the running stack starts the process that leaky.yaml has gained,
// and stops it when it is gone from there. Meanwhile calls go on.
func TestUpFollowsTheFile(t *testing.T) {
	settled(t)
	who := newAccount(t)
	text, err := os.ReadFile(running.Config)
	if err != nil {
		t.Fatal(err)
	}
	leaky := func(want string, args ...string) {
		t.Helper()
		if out, err := running.Leaky(context.WithoutCancel(t.Context()), args...); err != nil || !strings.Contains(out, want) {
			t.Fatalf("leaky %s: want %q, got %v %s", strings.Join(args, " "), want, err, out)
		}
	}
	answered := func() {
		t.Helper()
		for range 20 {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, running.Gateway+chatPath, strings.NewReader(okBody))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+who.Key)
			req.Header.Set("Content-Type", "application/json")
			res, err := patiently(http.DefaultClient, req) // a process that just came may not be able to decide yet
			if err != nil {
				t.Fatal(err)
			}
			if res.Body.Close(); res.StatusCode != http.StatusOK {
				t.Errorf("want calls to go on, got %s", res.Status)
			}
		}
	}
	t.Cleanup(func() {
		replaced(t, running.Config, string(text))
		leaky("ratelimit-2  is not asked for any more, and stopped", "up", "--no-proof")
		testenv.Eventually(t, "all is well again", func() bool { return state(t).Ready })
	})
	if err := doubled(running.Config, "ratelimit"); err != nil {
		t.Fatal(err)
	}
	leaky("ratelimit-2  is new, and started", "up", "--no-proof")
	leaky("ratelimit-2", "ps")
	settled(t)
	testenv.Eventually(t, "all is well", func() bool { return state(t).Ready })
	answered()
	leaky("is stopped", "stop", "ratelimit-2")
	answered()
	leaky("is ready", "start", "ratelimit-2")
	leaky("ratelimit-2", "kill", "ratelimit-2")
	answered()
}
