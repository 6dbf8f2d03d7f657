//go:build long

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"
)

// oidcClientTS is the library of pages without a server; docs/sign-in.md names it.
const oidcClientTS = "oidc-client-ts@3.5.0"

// spa is a page without a server: it signs in by redirect or in a popup, and shows who that was and
// what a refresh gave. A callback at /hop goes on to another origin, as those of some frameworks do.
const spa = `<!doctype html><title>app</title><h1>An app</h1><p id="who"></p><p id="fresh"></p><p id="wrong"></p>
<button id="redirect">redirect</button><button id="popup">popup</button><script src="/oidc.js"></script><script>
const show = (id, text) => { document.getElementById(id).textContent = text; };
const manager = new oidc.UserManager({ authority: "%[1]s", client_id: "%[2]s", redirect_uri: location.origin + "/callback",
  popup_redirect_uri: location.origin + "/popup", scope: "openid profile offline_access", loadUserInfo: true });
const signedIn = async user => {
  show("who", user.profile.preferred_username);
  const next = await manager.signinSilent();
  show("fresh", next.access_token !== user.access_token);
};
const failed = error => show("wrong", String(error));
document.getElementById("redirect").onclick = () => manager.signinRedirect().catch(failed);
document.getElementById("popup").onclick = () => manager.signinPopup().then(signedIn).catch(failed);
if (location.pathname === "/callback") manager.signinRedirectCallback().then(signedIn).catch(failed);
if (location.pathname === "/popup") manager.signinPopupCallback().catch(failed);
</script>`

// site serves the app at an address.
func site(t *testing.T, network, address string, pages http.Handler) (origin string) {
	t.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(pages)
	server.Listener.Close()
	server.Listener = ln
	server.Start()
	t.Cleanup(server.Close)
	return server.URL
}

// TestSigningInByABrowser: in Chromium, from pages of other origins, by redirect and in a popup; where the
// callback goes on to another origin; back, reload and a page that was left open too long.
func TestSigningInByABrowser(t *testing.T) {
	packages := nodeFolder(t, "node", oidcClientTS, "--ignore-scripts")
	library, err := os.ReadFile(filepath.Join(packages, "node_modules", "oidc-client-ts", "dist", "browser", "oidc-client-ts.min.js"))
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := site(t, "tcp4", "127.0.0.1:0", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`<!doctype html><title>there</title><h1 id="landed">landed</h1>`))
	}))
	var clientID string
	pages := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/oidc.js":
			w.Header().Set("Content-Type", "text/javascript")
			_, _ = w.Write(library)
		case "/hop":
			http.Redirect(w, r, elsewhere+"/?code="+r.FormValue("code"), http.StatusFound)
		default:
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprintf(w, spa, running.Gateway, clientID)
		}
	})
	four, six := site(t, "tcp4", "127.0.0.1:0", pages), site(t, "tcp6", "[::1]:0", pages)
	var uris []string
	for _, origin := range []string{four, six} {
		uris = append(uris, origin+"/callback", origin+"/popup", origin+"/hop")
	}
	clientID = newApp(t, newAccount(t, "ADMIN"), map[string]any{"name": "A page", "public": true, "redirectUris": uris,
		"grantTypes": []string{"authorization_code", "refresh_token"}, "scopes": []string{"openid", "profile", "offline_access"}}).ClientID
	ann := newPerson(t)
	for name, origin := range map[string]string{"127.0.0.1": four, "[::1]": six} {
		t.Run("by redirect from "+name, func(t *testing.T) {
			b := newBrowser(t)
			b.look(1280, 800, "light")
			b.do(chromedp.Navigate(origin + "/"))
			b.submit("#redirect")
			b.enter(ann)
			b.within("who signed in, and a refresh", `document.getElementById("fresh")?.textContent === "true"`)
			if got := eval[string](b, `document.getElementById("who").textContent`); got != ann.name {
				t.Errorf("want %s, got %s", ann.name, got)
			}
		})
	}
	t.Run("in a popup", func(t *testing.T) {
		b := newBrowser(t)
		b.do(chromedp.Navigate(four + "/"))
		popup := b.opens("#popup")
		popup.enter(ann)
		b.within("who signed in, and a refresh", `document.getElementById("fresh").textContent === "true"`)
		if got := eval[string](b, `document.getElementById("who").textContent`); got != ann.name {
			t.Errorf("want %s, got %s", ann.name, got)
		}
	})
	authorize := func(back string) string {
		return running.Gateway + "/oauth2/authorize?response_type=code&client_id=" + clientID + "&scope=openid&redirect_uri=" + back +
			"&code_challenge_method=S256&code_challenge=" + strings.Repeat("c", 43)
	}
	t.Run("a callback that goes on to another origin", func(t *testing.T) {
		b := newBrowser(t)
		b.do(chromedp.Navigate(authorize(four + "/hop")))
		b.enter(ann)
		b.within("the other origin", `document.getElementById("landed") && location.origin === "`+elsewhere+`" && location.search.length > 10`)
	})
	t.Run("back, reload, and a page that is over", func(t *testing.T) {
		b := newBrowser(t)
		b.do(chromedp.Navigate(authorize(four + "/hop")))
		b.do(chromedp.Reload())
		b.fill("#username", ann.name)
		b.fill("#password", "not the one")
		b.submit("button.main")
		b.within("why", `document.querySelector("[role=alert]")?.innerText.length > 5`)
		b.do(chromedp.Reload())
		b.enter(ann)
		b.within("the other origin", `document.getElementById("landed")`)
		eval[any](b, "history.back(); undefined")
		b.within("the page again, or what leads on", `location.origin === "`+running.Gateway+`" && document.querySelector("h1")`)
		b.do(chromedp.Navigate(authorize(four + "/hop")))
		eval[any](b, `document.querySelector("input[name=form]").value = "over"; undefined`)
		b.fill("#username", ann.name)
		b.fill("#password", ann.password)
		b.submit("button.main")
		b.within("that it is over", `document.querySelector("h1") && document.body.innerText.length > 20`)
		if text := eval[string](b, "document.body.innerText"); strings.Contains(text, ann.password) || strings.Contains(strings.ToLower(text), "error 500") {
			t.Errorf("want a page that says what to do, got %s", text)
		}
	})
	t.Run("at each width and in each colour scheme", func(t *testing.T) {
		b := newBrowser(t)
		for _, width := range []int64{320, 1280} {
			for _, scheme := range []string{"light", "dark"} {
				b.look(width, 800, scheme)
				b.do(chromedp.Navigate(authorize(four + "/hop")))
				b.within("the page", `document.querySelector("button.main")`)
				name := fmt.Sprintf("authorize-%d-%s", width, scheme)
				b.picture(name)
				if wide := eval[int64](b, "document.documentElement.scrollWidth"); wide > width {
					t.Errorf("%s is %d wide", name, wide)
				}
			}
		}
	})
}

// enter types a person's name and password into the page where people sign in, and sends it.
func (b *browser) enter(who person) {
	b.t.Helper()
	b.within("the page where people sign in", `document.querySelector("#password")`)
	b.fill("#username", who.name)
	b.fill("#password", who.password)
	eval[any](b, `document.querySelector("button.main").click(); undefined`) // the page may be gone before a click is answered
}

// opens presses a button that opens a page of its own, and gives that page.
func (b *browser) opens(selector string) *browser {
	b.t.Helper()
	found := chromedp.WaitNewTarget(b.ctx, func(info *target.Info) bool { return info.Type == "page" })
	b.do(chromedp.Click(chromedp.CSS(selector)))
	select {
	case id := <-found:
		ctx, stop := chromedp.NewContext(b.ctx, chromedp.WithTargetID(id))
		b.t.Cleanup(stop)
		return &browser{t: b.t, ctx: ctx}
	case <-time.After(time.Minute):
		b.t.Fatal("no page was opened")
		return nil
	}
}
