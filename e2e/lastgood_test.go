package e2e

import (
	"crypto/rand"
	"os"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// TestACutFileIsNotFollowed empties and closes leaky.yaml and cuts the limits while the stack runs,
// and restarts parts meanwhile: the gateway goes on as before, and `leaky status` says why.
func TestACutFileIsNotFollowed(t *testing.T) {
	settled(t)
	who := newAccount(t)
	whole := map[string]string{}
	for _, path := range []string{running.Config, limitsFile()} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		whole[path] = string(text)
	}
	mended := func(path string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(whole[path]), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
		testenv.Eventually(t, "all is well again", func() bool {
			_, err := running.Leaky(t.Context(), "status")
			return err == nil
		})
	}
	limits := whole[limitsFile()]
	for _, tc := range []struct {
		name, path, text string
		mode             os.FileMode
		restarted        string
		told             string
	}{
		{"an empty leaky.yaml", running.Config, "", 0o644, "xds", "the file says nothing"},
		{"a cut leaky.yaml", running.Config, whole[running.Config][:strings.Index(whole[running.Config], "providers:")], 0o644, "ratelimit", "ends after"},
		{"a closed leaky.yaml", running.Config, whole[running.Config], 0o600, "extauthz", "permission denied"},
		{"limits without a rule", limitsFile(), limits[:strings.Index(limits, "    descriptors:")], 0o644, "ratelimit", "no descriptor has a rate_limit"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := os.WriteFile(tc.path, []byte(tc.text), tc.mode); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(tc.path, tc.mode); err != nil {
				t.Fatal(err)
			}
			defer mended(tc.path)
			if out, err := running.Leaky(t.Context(), "restart", tc.restarted); err != nil {
				t.Fatalf("a part does not start from what was good: %s", out)
			}
			testenv.Eventually(t, "a word about it and exit code 1", func() bool {
				out, err := running.Leaky(t.Context(), "status")
				return err != nil && strings.Contains(out, tc.told)
			})
			// Envoy hears a moment later that the part is back.
			testenv.Eventually(t, "the gateway and its limits go on", func() bool {
				r := request(t, "GET", "/api/v1/auth/api-keys?userId="+who.ID, "", nil, byToken(who)...)
				if r.status != 200 && r.status != 503 {
					t.Fatalf("want 200, got %d %s", r.status, r.text)
				}
				return r.status == 200 && r.header.Get("X-RateLimit-Limit") != ""
			})
		})
	}
}

// TestWhatIsHeldIsAccepted takes a section out of leaky.yaml, which is held until somebody says that
// it is meant, and puts it back, which needs no word.
func TestWhatIsHeldIsAccepted(t *testing.T) {
	settled(t)
	text, err := os.ReadFile(running.Config)
	if err != nil {
		t.Fatal(err)
	}
	defer replaced(t, running.Config, string(text))
	well := func() bool {
		_, err := running.Leaky(t.Context(), "status")
		return err == nil
	}
	// A content that was accepted once is never held again, so each run has one of its own.
	replaced(t, running.Config, strings.Replace(string(text), "\npurchases:", "\n# "+rand.Text()+" purchases:", 1))
	testenv.Eventually(t, "it is held", func() bool {
		out, err := running.Leaky(t.Context(), "status")
		return err != nil && strings.Contains(out, "gone: purchases")
	})
	if out, err := running.Leaky(t.Context(), "accept"); err != nil || !strings.Contains(out, "gone: purchases") {
		t.Errorf("%v: %s", err, out)
	}
	testenv.Eventually(t, "it is followed", well)
	settled(t)
	replaced(t, running.Config, string(text))
	settled(t) // before that nobody may have noticed anything, and all would be well
	testenv.Eventually(t, "the former content is followed", well)
}
