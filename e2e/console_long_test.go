//go:build long

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// axeRelease is the checker of accessibility that pages are run through.
const axeRelease = "axe-core@4.14.1"

// browser is a tab of headless Chromium.
type browser struct {
	t   *testing.T
	ctx context.Context

	mu    sync.Mutex
	asked []string // addresses of all requests
}

// newBrowser needs Chromium: apt-get install chromium, or LEAKY_CHROMIUM with its path.
func newBrowser(t *testing.T) *browser {
	t.Helper()
	bin := os.Getenv("LEAKY_CHROMIUM")
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); bin == "" && err == nil {
			bin = found
		}
	}
	if bin == "" {
		t.Fatal("this test needs Chromium: install it (apt-get install chromium), or set LEAKY_CHROMIUM to its path")
	}
	b := &browser{t: t}
	ctx, stop := chromedp.NewExecAllocator(context.Background(), chromedp.ExecPath(bin), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.Headless)
	t.Cleanup(stop)
	ctx, stop = chromedp.NewContext(ctx, chromedp.WithListener(func(event any) {
		if sent, ok := event.(*network.EventRequestWillBeSent); ok {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.asked = append(b.asked, sent.Request.URL)
		}
	}))
	t.Cleanup(stop)
	b.ctx = ctx
	b.do(chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
		_, err := cdp.Call(ctx, tab, network.Enable, network.EnableParams{})
		return err
	}))
	return b
}

// addresses are those of all requests so far.
func (b *browser) addresses() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.asked)
}

func (b *browser) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, steps...); err != nil {
		b.t.Fatal(err)
	}
}

func (b *browser) open(at string) { b.t.Helper(); b.do(chromedp.Navigate(running.Gateway + at)) }

// eval is the value of an expression in the page.
func eval[T any](b *browser, expression string) T {
	b.t.Helper()
	value, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatalf("%.200s: %v", expression, err)
	}
	return value
}

// within waits until the page says yes.
func (b *browser) within(what, expression string) {
	b.t.Helper()
	testenv.Eventually(b.t, what, func() bool { return eval[bool](b, "document.readyState === 'complete' && !!("+expression+")") })
}

// submit presses a button as the keyboard does, and waits for the page that follows.
func (b *browser) submit(selector string) {
	b.t.Helper()
	if _, err := chromedp.RunResponse(b.ctx, chromedp.Click(chromedp.CSS(selector))); err != nil {
		b.t.Fatalf("press %s: %v", selector, err)
	}
}

func (b *browser) fill(selector, text string) {
	b.t.Helper()
	b.do(chromedp.SetValue(chromedp.CSS(selector), text))
}

// look sets width, height and colour scheme.
func (b *browser) look(width, height int64, scheme string) {
	b.t.Helper()
	b.do(chromedp.EmulateViewport(width, height), chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
		_, err := cdp.Call(ctx, tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
		return err
	}))
}

// signIn types name and password in.
func (b *browser) signIn(v *visitor) {
	b.t.Helper()
	b.open("/console/")
	b.submit("a.button.main")
	b.fill("#username", v.name)
	b.fill("#password", v.password)
	b.submit("button.main")
	b.within("the overview", "document.querySelector('.tiles')")
}

// TestConsoleInABrowser: what people do, in a real browser: a key that is made, works, is seen at work
// and ends; tokens that are bought; a row that opens.
func TestConsoleInABrowser(t *testing.T) {
	b, v := newBrowser(t), newVisitor(t)
	b.look(1280, 800, "light")
	b.signIn(v)
	b.within("the call to copy", "document.querySelector('.first:not(.seen) pre')")
	b.open("/console/keys")
	b.fill("input[name=name]", "from the browser")
	b.submit("form.row button.main")
	key := eval[string](b, "document.getElementById('new-key').innerText.trim()")
	b.open("/console/") // the first page waits for the call, and turns green without a reload
	status, _, answer, err := running.Send(t.Context(), "POST", "/v1/chat/completions", key, map[string]any{"model": "gpt-4o-mini",
		"messages": []map[string]string{{"role": "user", "content": "hello"}}})
	if err != nil || status != 200 {
		t.Fatalf("the key does not work: %d %s %v", status, answer, err)
	}
	b.within("the first page to turn green", "document.querySelector('.first.seen')")
	for _, asked := range b.addresses() {
		if strings.Contains(asked, "/console/live?") {
			t.Errorf("a page that has a stream of events asks for them too: %s", asked)
		}
	}
	b.open("/console/requests")
	b.within("the call", "document.querySelector('a.open')")
	b.do(chromedp.Click(chromedp.CSS("a.open")))
	b.within("the row to open", "document.querySelector('tr.detail .why')?.innerText.includes('Settled at')")
	b.open("/console/keys")
	b.do(chromedp.Click(chromedp.CSS("details.sure summary")))
	b.submit("button.danger")
	testenv.Eventually(t, "the key to end", func() bool {
		status, err := running.Call(t.Context(), "GET", "/v1/models", key, nil, nil)
		return err == nil && status == 401
	})
	b.open("/console/balance")
	b.fill("input[name=tokens]", "7000")
	b.submit("form.row button.main")
	b.within("the purchase to complete", "document.querySelector('.good')")
	b.open("/console/balance")
	b.within("the balance", "document.querySelector('.big')?.innerText.replace(/\\D/g, '') === '7000'")
	b.submit(".who button")
	b.within("the way in", "document.querySelector('.alone')")
	for _, asked := range b.addresses() {
		if !strings.HasPrefix(asked, running.Gateway+"/") && !strings.HasPrefix(asked, "data:") {
			t.Errorf("a page asked another origin: %s", asked)
		}
	}
}

// TestConsoleIsAccessible runs every page, at two widths and in both colour schemes, through axe, and
// through a scale. LEAKY_SCREENSHOTS names a folder for pictures of them.
func TestConsoleIsAccessible(t *testing.T) {
	axe, err := os.ReadFile(filepath.Join(nodeFolder(t, "node", axeRelease, "--ignore-scripts"), "node_modules", "axe-core", "axe.min.js"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(running.Dir, "secrets", "admin.json"))
	if err != nil {
		t.Fatal(err)
	}
	var admin struct{ Username, Password string }
	if err := json.Unmarshal(text, &admin); err != nil {
		t.Fatal(err)
	}
	busy(t)
	b := newBrowser(t)
	b.looks(func(width int64, scheme string) {
		b.open("/console/")
		b.check(string(axe), "welcome", width, scheme)
		b.submit("a.button.main")
		b.check(string(axe), "sign-in", width, scheme)
	})
	b.signIn(&visitor{name: admin.Username, password: admin.Password})
	pages := map[string]string{"overview": "", "requests": "requests", "usage": "usage?by=user", "keys": "keys", "limits": "limits",
		"balance": "balance", "organisations": "orgs", "system": "system"}
	here := func() string { return eval[string](b, "location.pathname.replace('/console/', '')") }
	b.open("/console/orgs")
	b.fill("input[name=name]", "Acme "+uuid.NewString()[:8])
	b.submit("form.row button.main")
	pages["organisation"] = here()
	b.open("/console/balance")
	b.fill("input[name=tokens]", "7000")
	b.submit("form.row button.main")
	b.within("the purchase to complete", "document.querySelector('.good')")
	pages["purchase"] = here()
	b.open("/console/requests")
	pages["request"] = eval[string](b, "document.querySelector('a.open').getAttribute('href').replace('/console/', '')")
	b.looks(func(width int64, scheme string) {
		for page, at := range pages {
			b.open("/console/" + at)
			b.check(string(axe), page, width, scheme)
		}
	})
}

// looks does something at each width and in each colour scheme.
func (b *browser) looks(do func(width int64, scheme string)) {
	b.t.Helper()
	for _, width := range []int64{1280, 390} {
		for _, scheme := range []string{"light", "dark"} {
			b.look(width, 844, scheme)
			do(width, scheme)
		}
	}
}

// check takes a picture of a page, and looks for what shuts people out, for what sticks out and for its weight.
func (b *browser) check(axe, page string, width int64, scheme string) {
	b.t.Helper()
	name := fmt.Sprintf("%s-%d-%s", page, width, scheme)
	b.within(name, "document.querySelector('h1')")
	b.picture(name)
	b.axe(axe, name)
	if wide := eval[int64](b, "document.documentElement.scrollWidth"); wide > width {
		b.t.Errorf("%s is %d wide, beyond %d", name, wide, width)
	}
	const weight = `performance.getEntries().reduce((sum, e) => sum + (e.encodedBodySize || 0), 0)`
	if bytes := eval[int64](b, weight); bytes > 200<<10 {
		b.t.Errorf("%s weighs %d bytes", name, bytes)
	}
}

// busy makes calls and a purchase, so that there is something to see.
func busy(t *testing.T) {
	t.Helper()
	for range 3 {
		who := newAccount(t)
		mustCall(t, 202, "POST", "/api/v1/tokens/purchase", who.JWT, map[string]any{"provider": "gemini", "tokens": 50_000}, nil)
		for i := range 12 {
			model := []string{"gpt-4o-mini", "qwen-plus", "gpt-4.1", "nope"}[i%4]
			if _, _, _, err := running.Send(t.Context(), "POST", "/v1/chat/completions", who.Key, map[string]any{"model": model,
				"messages": []map[string]string{{"role": "user", "content": fmt.Sprintf("hello [[tokens=%d]]", 20+40*i)}}}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func (b *browser) axe(script, name string) {
	b.t.Helper()
	eval[any](b, script+";undefined")
	found := eval[[]string](b, `axe.run().then(r => r.violations.map(v => v.id + ': ' + v.help + ' ' + v.nodes.map(n => n.html + ' ' + n.failureSummary).join(' | ')))`)
	for _, violation := range found {
		b.t.Errorf("%s: %.600s", name, violation)
	}
}

func (b *browser) picture(name string) {
	b.t.Helper()
	dir := os.Getenv("LEAKY_SCREENSHOTS")
	if dir == "" {
		return
	}
	png, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name+".png"), png, 0o600)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}
