package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/settings"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// configPages are what xds and `leaky status` tell.
type configState struct {
	Ready         bool
	Reasons       []string
	Configuration struct {
		Live struct {
			Version, Content string
			Versions         map[string]string
		}
		Envoys []struct {
			Node         string
			Acknowledged map[string]string
		}
		LastPush *struct{ Reason string }
	}
}

// state is what `leaky status` tells.
func state(t *testing.T) configState {
	t.Helper()
	out, _ := running.Leaky(context.WithoutCancel(t.Context()), "status", "-o", "json") // an error is told in it
	var s configState
	text, _, _ := strings.Cut(out, "\nleaky: error")
	if err := json.NewDecoder(strings.NewReader(text)).Decode(&s); err != nil {
		t.Fatalf("leaky status: %v\n%s", err, out)
	}
	return s
}

// TestAChangeIsPushedAndTakenBack as docs/control-plane.md tells it: look, push, find it in the
// history, go back.
func TestAChangeIsPushedAndTakenBack(t *testing.T) {
	settled(t)
	who := newAccount(t)
	text, err := os.ReadFile(running.Config)
	if err != nil {
		t.Fatal(err)
	}
	whole := string(text)
	t.Cleanup(func() {
		replaced(t, running.Config, whole)
		testenv.Eventually(t, "all is well again", func() bool { return state(t).Ready })
	})
	leaky := func(want string, args ...string) {
		t.Helper()
		if out, err := running.Leaky(t.Context(), args...); err != nil || !strings.Contains(out, want) {
			t.Fatalf("leaky %s: want %q, got %v %s", strings.Join(args, " "), want, err, out)
		}
	}
	// Envoy's workers know a change a moment after the main thread, which acknowledges it.
	wantAsked := func(model string, want int) {
		t.Helper()
		testenv.Eventually(t, fmt.Sprintf("a call of %s is answered with %d", model, want), func() bool {
			status, _, _, err := running.Send(t.Context(), "POST", "/v1/chat/completions", who.Key,
				map[string]any{"model": model, "max_tokens": 8, "messages": []any{map[string]any{"role": "user", "content": "hi"}}})
			if err != nil {
				t.Fatal(err)
			}
			return status == want
		})
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "new.yaml")
	limits, err := os.ReadFile(limitsFile())
	if err != nil {
		t.Fatal(err)
	}
	// A model comes, and one goes.
	changed := strings.Replace(whole, "  - {name: gpt-4.1, provider: openai}", "  - {name: gpt-9, provider: openai}", 1)
	for path, text := range map[string]string{file: changed, filepath.Join(dir, "limits.yaml"): string(limits)} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	leaky("+ Route openai-chat:openai/gpt-9", "diff", file, "-o", "short")
	leaky("- Route openai-chat:openai/gpt-4.1", "diff", file)
	leaky("Live: ", "push", file, "-m", "try gpt-9")
	wantAsked("gpt-9", 200)
	wantAsked("gpt-4.1", 404)
	testenv.Eventually(t, "the version in the history", func() bool {
		out, err := running.Leaky(t.Context(), "history")
		return err == nil && strings.Contains(out, "live") && strings.Contains(out, "try gpt-9")
	})
	leaky("Nothing to do", "push")
	leaky("Live: ", "rollback", "-m", "gpt-9 is slow")
	wantAsked("gpt-4.1", 200)
	testenv.Eventually(t, "the way back in the history", func() bool {
		out, err := running.Leaky(t.Context(), "history", "-n", "1")
		return err == nil && strings.Contains(out, "gpt-9 is slow")
	})
	if now, err := os.ReadFile(running.Config); err != nil || string(now) != whole {
		t.Errorf("want the file as before, got %v", err)
	}
	leaky("Nothing changes in Envoy.", "diff")
	out, err := running.Leaky(t.Context(), "history", "9999")
	if err == nil || !strings.Contains(out, "no such version") {
		t.Errorf("want an unknown version told, got %v %s", err, out)
	}
}

// settled is the state once every Envoy runs what the files say: a test may just have put them back.
func settled(t *testing.T) (s configState) {
	t.Helper()
	files, err := settings.Load(running.Config, os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { s.ifFailed(t) }()
	testenv.Eventually(t, "every Envoy runs what the files say", func() bool {
		s = state(t)
		return s.run(files.Hash, s.Configuration.Live.Versions)
	})
	return s
}

// run: what is live is of this content, and every Envoy acknowledged these versions. The version of the
// whole is not compared: it changes with the endpoints, as processes come and go.
func (s configState) run(content string, versions map[string]string) bool {
	for _, e := range s.Configuration.Envoys {
		for _, kind := range []string{"Cluster", "Listener", "RouteConfiguration"} {
			if e.Acknowledged[kind] != versions[kind] {
				return false
			}
		}
	}
	return s.Configuration.Live.Content == content && len(s.Configuration.Envoys) > 0
}

// unchanged: what is live and what every Envoy acknowledged are as before.
func unchanged(t *testing.T, before configState) {
	t.Helper()
	live := before.Configuration.Live
	var now configState
	defer func() { now.ifFailed(t) }()
	testenv.Eventually(t, "every Envoy runs the version from before", func() bool {
		now = state(t)
		return now.run(live.Content, live.Versions)
	})
}

// ifFailed says what there was instead.
func (s configState) ifFailed(t *testing.T) {
	if t.Failed() {
		t.Logf("in the end: %+v", s)
	}
}
