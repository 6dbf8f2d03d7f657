package settings_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/settings"
)

const leakyYAML = `gateway: {listen: "127.0.0.1:18080"}
providers:
  openai: {url: "https://one.example"}
  other: {url: "https://two.example"}
models:
  - {name: gpt-4o, provider: openai}
  - {name: else, provider: other}
limits: {file: limits.yaml}
flags: {gateway: {rate_limiting: true}}
auth: {registration: closed}
`

const limitsYAML = `domain: leaky
descriptors:
  - key: count
    value: tokens
    descriptors:
      - key: user
        rate_limit: {name: per-user, unit: minute, requests_per_unit: 100}
      - key: org
        rate_limit: {name: per-org, unit: minute, requests_per_unit: 1000}
  - key: count
    value: requests
    descriptors:
      - key: user
        rate_limit: {name: calls, unit: minute, requests_per_unit: 10}
`

// files is a leaky.yaml with its limits, and the state folder of who reads them.
type files struct {
	t                     *testing.T
	leaky, limits, folder string
}

func newFiles(t *testing.T) *files {
	dir := t.TempDir()
	f := &files{t: t, leaky: filepath.Join(dir, "leaky.yaml"), limits: filepath.Join(dir, "limits.yaml"), folder: filepath.Join(dir, "state")}
	f.put(f.leaky, leakyYAML)
	f.put(f.limits, limitsYAML)
	return f
}

func (f *files) put(path, text string) {
	f.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// open is a part that starts.
func (f *files) open() (*settings.Source, *settings.Settings) {
	f.t.Helper()
	s := settings.New(f.leaky, f.folder, func(string) string { return "" }, slog.New(slog.DiscardHandler))
	now, err := s.Open()
	if err != nil {
		f.t.Fatal(err)
	}
	return s, now
}

// TestEveryCutIsHeldOrWrong cuts both files after each line and in the middle of each: whatever is
// left, a part that runs and one that starts follow what was good last, and say why.
func TestEveryCutIsHeldOrWrong(t *testing.T) {
	t.Parallel()
	for name, whole := range map[string]string{"leaky.yaml": leakyYAML, "limits.yaml": limitsYAML} {
		f := newFiles(t)
		running, good := f.open()
		path := filepath.Join(filepath.Dir(f.leaky), name)
		last := len(strings.TrimSpace(whole))
		var at []int
		for i := 0; i < last; i += 7 {
			at = append(at, i)
		}
		for i, c := range whole[:last] {
			if c == '\n' {
				at = append(at, i+1)
			}
		}
		for _, end := range at {
			f.put(path, whole[:end])
			now, err := running.Refresh()
			if err == nil || now.Hash != good.Hash || !strings.Contains(err.Error(), name) {
				t.Errorf("%s cut at %d: want the last good content and the file's name, got %v, the same content: %v", name, end, err, now.Hash == good.Hash)
			}
			if end%5 != 0 {
				continue // a start looks twice, which takes its time
			}
			if started, now := f.open(); now.Hash != good.Hash || started.Problem() == nil {
				t.Errorf("%s cut at %d: a part that starts follows the cut", name, end)
			}
		}
		f.put(path, whole)
		if _, err := running.Refresh(); err != nil {
			t.Errorf("%s whole again: %v", name, err)
		}
	}
}

// TestWhatIsHeld: what is legal and drops something of weight waits until it is accepted.
func TestWhatIsHeld(t *testing.T) {
	t.Parallel()
	edit := strings.Replace
	for name, tc := range map[string]struct {
		leaky, limits, want string // want empty: it is followed at once
	}{
		"a listener that moves":     {edit(leakyYAML, "18080", "18081", 1), limitsYAML, "gateway.listen moves from 127.0.0.1:18080 to 127.0.0.1:18081"},
		"a provider less":           {edit(edit(leakyYAML, "  other: {url: \"https://two.example\"}\n", "", 1), "else, provider: other", "else, provider: openai", 1), limitsYAML, "providers are gone: other"},
		"two other models":          {edit(edit(leakyYAML, "gpt-4o", "a", 1), "else", "b", 1), limitsYAML, ""},
		"a section less":            {edit(leakyYAML, "flags: {gateway: {rate_limiting: true}}\n", "", 1), limitsYAML, "gone: flags"},
		"limits that are not named": {edit(leakyYAML, "limits: {file: limits.yaml}", "limits: {}", 1), limitsYAML, "built-in limits would bind"},
		"most rules less":           {leakyYAML, edit(edit(edit(limitsYAML, "per-user", "x", 1), "per-org", "y", 1), "calls", "z", 1), "3 of 3 limits are gone"},
		"a rule less":               {leakyYAML, edit(limitsYAML, "      - key: org\n        rate_limit: {name: per-org, unit: minute, requests_per_unit: 1000}\n", "", 1), ""},
		"another number":            {leakyYAML, edit(limitsYAML, "1000}", "7}", 1), ""},
		"a flag":                    {edit(leakyYAML, "rate_limiting: true", "rate_limiting: false", 1), limitsYAML, ""},
		"one more section":          {leakyYAML + "holds: {expiry: release}\n", limitsYAML, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFiles(t)
			running, good := f.open()
			f.put(f.leaky, tc.leaky)
			f.put(f.limits, tc.limits)
			now, err := running.Refresh()
			if tc.want == "" {
				if err != nil || now.Hash == good.Hash || running.Problem() != nil {
					t.Fatalf("want it followed, got %v", err)
				}
				return
			}
			held, ok := errors.AsType[*settings.HeldError](err)
			if !ok || now.Hash != good.Hash || !strings.Contains(err.Error(), tc.want) || len(held.Lost) == 0 {
				t.Fatalf("want %q held, got %v", tc.want, err)
			}
			gone, err := settings.New(f.leaky, f.folder, func(string) string { return "" }, slog.New(slog.DiscardHandler)).Accept()
			if err != nil || !strings.Contains(strings.Join(gone, "; "), tc.want) {
				t.Fatalf("accepting tells %q, %v", gone, err)
			}
			if now, err = running.Refresh(); err != nil || now.Hash == good.Hash {
				t.Fatalf("want it followed once accepted, got %v", err)
			}
			f.put(f.leaky, leakyYAML)
			f.put(f.limits, limitsYAML)
			if now, err = running.Refresh(); err != nil || now.Hash != good.Hash {
				t.Errorf("who goes back means it: got %v", err)
			}
		})
	}
}

// TestAPartStartsFromWhatWasGood when it cannot read the files, or they are gone, empty or wrong.
func TestAPartStartsFromWhatWasGood(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(f *files){
		"gone":       func(f *files) { f.remove(f.leaky) },
		"empty":      func(f *files) { f.put(f.leaky, "") },
		"comments":   func(f *files) { f.put(f.leaky, "# nothing\n") },
		"a mistake":  func(f *files) { f.put(f.leaky, "gatway: {}\n") },
		"unreadable": func(f *files) { f.remove(f.leaky); f.folderAt(f.leaky) },
		"no limits":  func(f *files) { f.remove(f.limits) },
		"no rules":   func(f *files) { f.put(f.limits, "domain: leaky\ndescriptors:\n  - key: count\n    value: tokens\n") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFiles(t)
			_, good := f.open()
			spoil(f)
			s, now := f.open()
			if now.Hash != good.Hash || s.Problem() == nil || now.Config.Gateway.Listen != "127.0.0.1:18080" || len(now.Limits.Rules()) != 3 {
				t.Errorf("want the last good content, got %+v, %v", now.Config.Gateway, s.Problem())
			}
			f.remove(filepath.Join(f.folder, settings.Folder, "last-good.json"))
			fresh := settings.New(f.leaky, f.folder, func(string) string { return "" }, slog.New(slog.DiscardHandler))
			if _, err := fresh.Open(); err == nil {
				t.Error("where nothing was ever good a start must fail")
			}
		})
	}
}

func (f *files) remove(path string) {
	f.t.Helper()
	if err := os.RemoveAll(path); err != nil {
		f.t.Fatal(err)
	}
}

func (f *files) folderAt(path string) {
	f.t.Helper()
	if err := os.Mkdir(path, 0o700); err != nil {
		f.t.Fatal(err)
	}
}

// TestTheMemoryMayBeDamaged: it is looked through by its hash, and another leaky.yaml's is none.
func TestTheMemoryMayBeDamaged(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	f.open()
	kept := filepath.Join(f.folder, settings.Folder, "last-good.json")
	text, err := os.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	f.put(f.leaky, "gatway: {}\n")
	for name, damaged := range map[string]string{"cut": string(text[:len(text)/2]), "empty": "",
		"changed": strings.Replace(string(text), "18080", "18099", 1), "another file's": strings.Replace(string(text), f.leaky, "/else.yaml", 1)} {
		f.put(kept, damaged)
		s := settings.New(f.leaky, f.folder, func(string) string { return "" }, slog.New(slog.DiscardHandler))
		if now, err := s.Open(); err == nil || !strings.Contains(err.Error(), "gatway") {
			t.Errorf("%s: want the file's own mistake, got %+v, %v", name, now, err)
		}
	}
}

// TestARefusedContentIsNotStartedFrom: what an Envoy refused is not tried again by itself.
func TestARefusedContentIsNotStartedFrom(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	running, good := f.open()
	beside, _ := f.open()
	f.put(f.leaky, strings.Replace(leakyYAML, "closed", "invite", 1))
	next, err := running.Refresh()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := beside.Refresh(); err != nil {
		t.Fatal(err)
	}
	running.Refuse(next.Hash, good, errors.New("no such port"))
	for name, s := range map[string]*settings.Source{"who refused": running, "another part": beside} {
		if now, err := s.Refresh(); err == nil || now.Hash != good.Hash || !strings.Contains(err.Error(), "no such port") {
			t.Errorf("%s: want the content before, got %v", name, err)
		}
	}
	if s, now := f.open(); now.Hash != good.Hash || s.Problem() == nil {
		t.Error("a part that starts follows what was refused")
	}
	if _, err := running.Accept(); err != nil {
		t.Fatal(err)
	}
	if now, err := running.Refresh(); err != nil || now.Hash != next.Hash {
		t.Errorf("want it tried again once accepted, got %v", err)
	}
}

// FuzzLost compares any two contents without a panic, and misses nothing between equals.
func FuzzLost(f *testing.F) {
	f.Add(leakyYAML, limitsYAML)
	f.Add(leakyYAML[:60], limitsYAML[:60])
	f.Fuzz(func(t *testing.T, leaky, limits string) {
		files := newFiles(t)
		running, good := files.open()
		files.put(files.leaky, leaky)
		files.put(files.limits, limits)
		if now, err := running.Refresh(); now == nil || err != nil && now.Hash != good.Hash {
			t.Errorf("got %v, %v", now, err)
		}
		_ = running.Lost()
	})
}
