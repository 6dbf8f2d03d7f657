package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
)

// pythonSDK is the release of the Python package that is tested.
const pythonSDK = "openai==3.54.0"

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
	dir := pythonPackage(t, pythonSDK)
	who := newAccount(t)
	script := exec.CommandContext(t.Context(), "python3", "-c", pythonScript)
	script.Env = append(os.Environ(), "PYTHONPATH="+dir, "OPENAI_BASE_URL="+running.Gateway+"/v1", "OPENAI_API_KEY="+who.Key)
	out, err := script.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "python is served") {
		t.Fatalf("%v\n%s", err, out)
	}
}

// pythonPackage installs name==version once into the cache, and gives the folder for PYTHONPATH.
func pythonPackage(t *testing.T, release string) string {
	t.Helper()
	dir := filepath.Join(config.CacheDir(os.Getenv), "python-"+release)
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	staging, err := os.MkdirTemp(filepath.Dir(dir), "python-new-")
	if err != nil {
		t.Fatal(err)
	}
	install := exec.CommandContext(t.Context(), "python3", "-m", "pip", "install", "--quiet", "--target", staging, release)
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("install %s: %v\n%s", release, err, out)
	}
	if err := os.Rename(staging, dir); err != nil {
		t.Fatal(err)
	}
	return dir
}
