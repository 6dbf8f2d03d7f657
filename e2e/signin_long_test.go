//go:build long

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/toolcache"
)

// Releases that are tried; docs/sign-in.md names them.
const (
	mcpSDK       = "mcp==2.3.0"
	authlib      = "authlib==1.9.10 requests==2.34.2 joserfc==1.8.0"
	openidClient = "openid-client@6.9.0"
)

// mcpAgent knows the gateway's URL and nothing else. It prints where its person is to sign in, reads
// where they came back to, and prints what a model's call was told of tokens.
const mcpAgent = `
import asyncio, os, sys
import httpx2
from urllib.parse import parse_qs, urlparse
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.shared.auth import OAuthClientMetadata

class Memory:
    tokens = client = None
    async def get_tokens(self): return self.tokens
    async def set_tokens(self, tokens): self.tokens = tokens
    async def get_client_info(self): return self.client
    async def set_client_info(self, client): self.client = client

async def send(url):
    print("sign in:", url, flush=True)

async def back():
    q = parse_qs(urlparse(sys.stdin.readline().strip()).query)
    return AuthorizationCodeResult(code=q["code"][0], state=q["state"][0], iss=q["iss"][0])

async def main():
    gateway = os.environ["GATEWAY"]
    auth = OAuthClientProvider(server_url=gateway, storage=Memory(), redirect_handler=send, callback_handler=back,
        client_metadata=OAuthClientMetadata(client_name="an agent", redirect_uris=["http://127.0.0.1:8/callback"],
            grant_types=["authorization_code", "refresh_token"], response_types=["code"], token_endpoint_auth_method="none"))
    async with httpx2.AsyncClient(auth=auth, timeout=30) as http:
        r = await http.post(gateway + "/v1/chat/completions",
            json={"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]})
        r.raise_for_status()
        print("told:", r.json()["usage"]["total_tokens"], flush=True)

asyncio.run(main())
`

// TestTheMCPClientFindsItsWay: from the gateway's URL by a 401 to the metadata, to a registration of its
// own, to a person who signs in, to a model's answer on that person's books.
func TestTheMCPClientFindsItsWay(t *testing.T) {
	restarted := func() {
		if out, err := running.Leaky(context.WithoutCancel(t.Context()), "restart", "identity"); err != nil {
			t.Error(err, out)
		}
	}
	defer restarted()
	defer edited(t, running.Config, "auth: {throttle:", "auth: {client_registration: open, throttle:")()
	restarted()
	testenv.Eventually(t, "registration is open", func() bool {
		return strings.Contains(request(t, "GET", "/.well-known/oauth-authorization-server", "", nil).text, `"registration_endpoint"`)
	})
	ann := newPerson(t)
	out := signingIn(t, ann, []string{"PYTHONPATH=" + toolcache.Python(t, mcpSDK)}, "python3", "-c", mcpAgent)
	var told int64
	if n, _ := fmt.Sscanf(out, "told: %d", &told); n != 1 {
		t.Fatalf("want a model's answer, got %s", out)
	}
	var page struct{ Items []usage }
	testenv.Eventually(t, "the call is on their books", func() bool {
		mustCall(t, 200, "GET", "/api/v1/analytics/usage?provider=openai", ann.login(t).Token, nil, &page)
		return len(page.Items) == 1
	})
	if page.Items[0].Tokens != told {
		t.Errorf("want the %d tokens that the agent was told, got %+v", told, page.Items[0])
	}
}

// TestClientsOfOthersSignIn by libraries for Python and Node: discovery, client_credentials,
// introspection, code with PKCE, userinfo, refresh, revocation, and by Node's the device flow and logout.
func TestClientsOfOthersSignIn(t *testing.T) {
	t.Parallel()
	scripts, err := filepath.Abs(filepath.Join("testdata", "signin"))
	if err != nil {
		t.Fatal(err)
	}
	root := newAccount(t, "ADMIN")
	job, web := newApp(t, root, jobApp("tokens.read")), newApp(t, root, webApp(nil))
	for name, run := range map[string]struct {
		env     string
		command []string
	}{
		"Authlib":       {"PYTHONPATH=" + pythonFolder(t, "python-signin", authlib), []string{"python3", filepath.Join(scripts, "by_authlib.py")}},
		"openid-client": {"PACKAGES=" + nodeFolder(t, "node-signin", openidClient), []string{"node", filepath.Join(scripts, "by_openid_client.mjs")}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ann := newPerson(t)
			env := []string{run.env, "CALLBACK=" + callback, "JOB_ID=" + job.ClientID, "JOB_SECRET=" + job.ClientSecret,
				"WEB_ID=" + web.ClientID, "WEB_SECRET=" + web.ClientSecret}
			if out := signingIn(t, ann, env, run.command...); out != "done: "+ann.id+"\n" {
				t.Errorf("want the end of it, got %s", out)
			}
		})
	}
}

// signingIn runs a program that prints where its person is to go and reads where they came back to. The
// person signs in and allows. The rest of what it printed is the answer.
func signingIn(t *testing.T, who person, env []string, command ...string) (rest string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
	cmd.Env = append(append(os.Environ(), "GATEWAY="+running.Gateway), env...)
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	allow := url.Values{"username": {who.name}, "password": {who.password}, "decision": {"allow"}}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		what, where, _ := strings.Cut(lines.Text(), ": ")
		switch what {
		case "sign in":
			back := fillIn(t, request(t, "GET", pathOf(t, where), "", nil), "/oauth2/authorize", allow)
			_, _ = io.WriteString(in, back.header.Get("Location")+"\n") // Wait tells if it is gone
		case "device":
			page := shown(t, post(t, "/oauth2/device", url.Values{"user_code": {where}}, "Origin", running.Gateway))
			shown(t, fillIn(t, page, "/oauth2/device", allow))
		default:
			rest += lines.Text() + "\n"
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, complaints.String())
	}
	return rest
}
