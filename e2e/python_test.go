package e2e

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/toolcache"
)

// pythonSDK is the release of the Python package that is tested.
const pythonSDK = "openai==3.57.0"

const pythonScript = `
from openai import OpenAI, NotFoundError
client = OpenAI()
ask = dict(model="gpt-4o-mini", messages=[{"role": "user", "content": "hello [[tokens=17]]"}])
answer = client.chat.completions.create(**ask)
assert answer.usage.completion_tokens == 17, answer
text = "".join(c.choices[0].delta.content or "" for c in client.chat.completions.create(stream=True, **ask) if c.choices)
assert text == answer.choices[0].message.content, (text, answer)
try:
    client.chat.completions.create(**{**ask, "model": "nope"})
    raise SystemExit("an unknown model was served")
except NotFoundError as e:
    assert e.code == "model_not_found", e
print("python is served")
`

// TestPythonSDK needs nothing but the base URL and the key in the environment.
func TestPythonSDK(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	if out := runSDK(t, who, []string{"PYTHONPATH=" + toolcache.Python(t, pythonSDK)}, "", "python3", "-c", pythonScript); !strings.Contains(out, "python is served") {
		t.Fatal(out)
	}
}

// runSDK runs a script with the base URL and the key where OpenAI's SDKs look for them.
func runSDK(t *testing.T, who stacktest.Account, env []string, dir string, command ...string) string {
	t.Helper()
	script := exec.CommandContext(t.Context(), command[0], command[1:]...)
	script.Dir = dir
	script.Env = append(append(os.Environ(), "OPENAI_BASE_URL="+running.Gateway+"/v1", "OPENAI_API_KEY="+who.Key), env...)
	out, err := script.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}
