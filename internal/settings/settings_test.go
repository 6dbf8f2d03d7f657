package settings_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/settings"
)

const leakyYAML = `gateway: {listen: "127.0.0.1:18080"}
providers:
  openai: {url: "https://one.example"}
  other: {url: "https://two.example"}
models:
  - {name: gpt-4o, provider: openai}
  - {name: else, provider: other}
limits: {file: limits.yaml, domains: [shop.yaml]}
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
      - key: org
        rate_limit: {name: calls-of-org, unit: minute, requests_per_unit: 10}
`

const shopYAML = `domain: shop
descriptors:
  - {key: path, rate_limit: {name: path, unit: minute, requests_per_unit: 100}}
  - {key: host, rate_limit: {name: host, unit: minute, requests_per_unit: 100}}
  - {key: user, rate_limit: {name: user, unit: minute, requests_per_unit: 100}}
  - {key: team, rate_limit: {name: team, unit: minute, requests_per_unit: 100}}
`

// files is a leaky.yaml with its limits, and the state folder of who reads them.
type files struct {
	t                   *testing.T
	leaky, limits, shop string
	folder              string
}

func newFiles(t *testing.T) *files {
	dir := t.TempDir()
	f := &files{t: t, leaky: filepath.Join(dir, "leaky.yaml"), limits: filepath.Join(dir, "limits.yaml"),
		shop: filepath.Join(dir, "shop.yaml"), folder: filepath.Join(dir, "state")}
	f.put(f.leaky, leakyYAML)
	f.put(f.limits, limitsYAML)
	f.put(f.shop, shopYAML)
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
	synctest.Test(t, everyCut) // whose clock does not wait between two looks
}

func everyCut(t *testing.T) {
	for name, whole := range map[string]string{"leaky.yaml": leakyYAML, "limits.yaml": limitsYAML, "shop.yaml": shopYAML} {
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
			if end%3 != 0 {
				continue // a start does the same, and takes longer
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
		"an inner listener":         {edit(leakyYAML, "18080\"", "18080\", egress: \"unix:run/else.sock\"", 1), limitsYAML, "gateway.egress moves from unix:run/egress.sock to unix:run/else.sock"},
		"a provider less":           {edit(edit(leakyYAML, "  other: {url: \"https://two.example\"}\n", "", 1), "else, provider: other", "else, provider: openai", 1), limitsYAML, "providers are gone: other"},
		"two other models":          {edit(edit(leakyYAML, "gpt-4o", "a", 1), "else", "b", 1), limitsYAML, ""},
		"a section less":            {edit(leakyYAML, "flags: {gateway: {rate_limiting: true}}\n", "", 1), limitsYAML, "gone: flags"},
		"limits that are not named": {edit(leakyYAML, "limits: {file: limits.yaml,", "limits: {", 1), limitsYAML, "built-in limits would bind"},
		"most rules less":           {leakyYAML, edit(edit(edit(limitsYAML, "per-user", "x", 1), "per-org", "y", 1), "calls", "z", 1), "3 of 4 limits are gone"},
		"half of the rules":         {leakyYAML, edit(limitsYAML, limitsYAML[strings.LastIndex(limitsYAML, "  - key: count"):], "", 1) + "# tail\n", "2 of 4 limits are gone"},
		"another domain":            {edit(leakyYAML, ", domains: [shop.yaml]", "", 1), limitsYAML, "domains are gone: shop"},
		"most models less": {edit(edit(leakyYAML, "  - {name: else, provider: other}\n", "", 1), "gpt-4o, provider: openai", "x, provider: other", 1), limitsYAML,
			"2 of 2 models are gone"},
		"a rule less":      {leakyYAML, edit(limitsYAML, "      - key: org\n        rate_limit: {name: per-org, unit: minute, requests_per_unit: 1000}\n", "", 1), ""},
		"another number":   {leakyYAML, edit(limitsYAML, "1000}", "7}", 1), ""},
		"a flag":           {edit(leakyYAML, "rate_limiting: true", "rate_limiting: false", 1), limitsYAML, ""},
		"one more section": {leakyYAML + "holds: {expiry: release}\n", limitsYAML, ""},
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
		"a loop":     func(f *files) { f.linkedTo(f.leaky) },
		"a device":   func(f *files) { f.linkedTo("/dev/zero") },
		"a pipe that nobody writes to": func(f *files) {
			f.remove(f.leaky)
			if err := syscall.Mkfifo(f.leaky, 0o600); err != nil {
				f.t.Fatal(err)
			}
		},
		"zeros": func(f *files) { f.put(f.leaky, strings.Repeat("\x00", len(leakyYAML))) },
		"zeros from a line on": func(f *files) {
			f.put(f.leaky, leakyYAML[:strings.Index(leakyYAML, "models")]+strings.Repeat("\x00", 99))
		},
		"zeros as limits":       func(f *files) { f.put(f.limits, strings.Repeat("\x00", len(limitsYAML))) },
		"a picture":             func(f *files) { f.put(f.leaky, "\x89PNG\r\n\x1a\n\x00") },
		"twice the same":        func(f *files) { f.put(f.leaky, leakyYAML+leakyYAML) },
		"each other's":          func(f *files) { f.put(f.leaky, limitsYAML); f.put(f.limits, leakyYAML) },
		"comments as limits":    func(f *files) { f.put(f.limits, "# none\n") },
		"the limits of a shop":  func(f *files) { f.put(f.limits, shopYAML) },
		"no limits of the shop": func(f *files) { f.put(f.shop, "domain: shop\n") },
		"no rules":              func(f *files) { f.put(f.limits, "domain: leaky\ndescriptors:\n  - key: count\n    value: tokens\n") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFiles(t)
			_, good := f.open()
			spoil(f)
			s, now := f.open()
			if now.Hash != good.Hash || s.Problem() == nil || now.Config.Gateway.Listen != "127.0.0.1:18080" || len(now.Limits.Rules()) != 4 {
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

// linkedTo has a link in the place of leaky.yaml.
func (f *files) linkedTo(path string) {
	f.t.Helper()
	f.remove(f.leaky)
	if err := os.Symlink(path, f.leaky); err != nil {
		f.t.Fatal(err)
	}
}

func (f *files) folderAt(path string) {
	f.t.Helper()
	if err := os.Mkdir(path, 0o700); err != nil {
		f.t.Fatal(err)
	}
}

// TestTLSThatIsGoneIsHeld: no client is served in clear text, or without a certificate, by a mistake.
func TestTLSThatIsGoneIsHeld(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	with := func(tls string) string {
		return strings.Replace(leakyYAML, `18080"`, `18080"`+tls, 1)
	}
	all := with(`, tls: {certificate: /c.pem, key: /k.pem, clients: required, client_roots: /ca.pem}`)
	f.put(f.leaky, all)
	s, good := f.open()
	for text, want := range map[string]string{leakyYAML: "gateway.tls is gone",
		with(`, tls: {certificate: /c.pem, key: /k.pem}`): "gateway.tls.clients is required no more"} {
		f.put(f.leaky, text)
		if now, err := s.Refresh(); err == nil || now.Hash != good.Hash || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q held, got %v", want, err)
		}
	}
}

// TestRulesOfAnotherDomainAreHeld, as our own are.
func TestRulesOfAnotherDomainAreHeld(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	s, good := f.open()
	f.put(f.shop, strings.Replace(shopYAML, "team", "crew", 2))
	next, err := s.Refresh()
	if err != nil || next.Hash == good.Hash {
		t.Fatalf("one that changed: want it followed, got %v", err)
	}
	lines := strings.SplitAfter(shopYAML, "\n")
	f.put(f.shop, strings.Join(append(lines[:2:2], lines[4:]...), ""))
	if now, err := s.Refresh(); err == nil || now.Hash != next.Hash || !strings.Contains(err.Error(), "3 of 4 limits of domain shop are gone") {
		t.Errorf("want it held, got %v", err)
	}
}

// TestFilesOfWindows begin with a byte order mark, and their lines end in two characters.
func TestFilesOfWindows(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	s, good := f.open()
	crlf := func(text string) string { return "\ufeff" + strings.ReplaceAll(text, "\n", "\r\n") }
	f.put(f.leaky, crlf(leakyYAML))
	f.put(f.limits, crlf(limitsYAML))
	f.put(f.shop, crlf(shopYAML))
	next, err := s.Refresh()
	if err != nil || next.Hash == good.Hash || len(next.Limits.Rules()) != 4 {
		t.Fatalf("want it followed, got %v", err)
	}
	for _, at := range []string{"flags:", "auth:", "models:"} {
		text := crlf(leakyYAML)
		f.put(f.leaky, text[:strings.Index(text, at)])
		if now, err := s.Refresh(); err == nil || now.Hash != next.Hash {
			t.Errorf("cut before %s: want the last good content, got %v", at, err)
		}
	}
}

// TestAFileInTheMiddleOfAWriteIsNotFollowed: two looks must see the same, at the start and later.
func TestAFileInTheMiddleOfAWriteIsNotFollowed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFiles(t)
		during := func(look func()) {
			go func() {
				time.Sleep(time.Millisecond) // after the first look
				f.put(f.leaky, leakyYAML+"# written\n")
			}()
			look()
		}
		none := func(string) string { return "" }
		fresh := settings.New(f.leaky, f.folder, none, slog.New(slog.DiscardHandler))
		during(func() {
			if _, err := fresh.Open(); err == nil || !strings.Contains(err.Error(), "changes while it is read") {
				t.Errorf("a start: want it told, got %v", err)
			}
		})
		running, good := f.open()
		f.put(f.leaky, leakyYAML+"holds: {expiry: release}\n")
		during(func() {
			if now, err := running.Refresh(); err == nil || now.Hash != good.Hash {
				t.Errorf("a change: want the last good content, got %v", err)
			}
		})
		if _, err := running.Refresh(); err != nil {
			t.Errorf("once it is written: %v", err)
		}
	})
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
		now, err := running.Refresh()
		if now == nil || err != nil && now.Hash != good.Hash {
			t.Fatalf("got %v, %v", now, err)
		}
		if gone := running.Lost(now); len(gone) > 0 {
			t.Errorf("what is followed lacks %q", gone)
		}
	})
}

// fullDisk keeps the memory from being written until the returned function is called; what it held before
// is there again then.
func (f *files) fullDisk() (freed func()) {
	f.t.Helper()
	folder := filepath.Join(f.folder, settings.Folder)
	must := func(err error) {
		f.t.Helper()
		if err != nil {
			f.t.Fatal(err)
		}
	}
	must(os.Rename(folder, folder+".away"))
	f.put(folder, "")
	return func() {
		f.t.Helper()
		must(os.Remove(folder))
		must(os.Rename(folder+".away", folder))
	}
}

// TestWhatAFullDiskDidNotTakeIsKeptLater: a part that starts follows what the others run, not what was
// kept before the disk was full. It is told once, however often it is tried.
func TestWhatAFullDiskDidNotTakeIsKeptLater(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	_, good := f.open()
	var log strings.Builder
	running := settings.New(f.leaky, f.folder, func(string) string { return "" }, slog.New(slog.NewTextHandler(&log, nil)))
	if _, err := running.Open(); err != nil {
		t.Fatal(err)
	}
	freed := f.fullDisk()
	f.put(f.leaky, strings.Replace(leakyYAML, "closed", "invite", 1))
	next, err := running.Refresh()
	if err != nil || next.Hash == good.Hash {
		t.Fatalf("a full disk hinders nobody: got %v", err)
	}
	for range 3 { // it is looked at each second
		running.Files()
	}
	if told := strings.Count(log.String(), "not kept"); told != 1 {
		t.Errorf("want it told once, got %d times: %s", told, log.String())
	}
	freed()
	running.Files()
	f.put(f.leaky, "")
	if s, now := f.open(); now.Hash != next.Hash || s.Problem() == nil {
		t.Errorf("a part that starts follows another content than the running ones: the one of before is it: %v", now.Hash == good.Hash)
	}
}

// TestARefusalThatAFullDiskDidNotTakeIsSaidLater, after the content that others go back to.
func TestARefusalThatAFullDiskDidNotTakeIsSaidLater(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	xds, good := f.open()
	beside, _ := f.open()
	f.put(f.leaky, strings.Replace(leakyYAML, "closed", "invite", 1))
	next, err := xds.Refresh()
	if err != nil {
		t.Fatal(err)
	}
	if now, err := beside.Refresh(); err != nil || now.Hash != next.Hash {
		t.Fatalf("got %v", err)
	}
	freed := f.fullDisk()
	xds.Refuse(next.Hash, good, errors.New("no such port"))
	if now, err := xds.Refresh(); err == nil || now.Hash != good.Hash {
		t.Errorf("who was refused does not try it again: got %v", err)
	}
	freed()
	beside.Files()
	xds.Files()
	for name, s := range map[string]*settings.Source{"xds": xds, "another part": beside} {
		if now, err := s.Refresh(); err == nil || now.Hash != good.Hash || !strings.Contains(err.Error(), "no such port") {
			t.Errorf("%s: want the content before, got %v", name, err)
		}
	}
	if s, now := f.open(); now.Hash != good.Hash || s.Problem() == nil {
		t.Error("a part that starts follows what was refused")
	}
}
