//go:build long

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/rawprovider"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/toolcache"
)

// nodeSDK is the release of the Node package that is tested.
const nodeSDK = "openai@7.59.0"

// The scripts read 200 streams, eight at once, each to where the SDK ends it, and print the
// usage that it told. A stream's script is a header of its call.
const (
	pythonStreams = `
import os
from concurrent.futures import ThreadPoolExecutor
from openai import OpenAI
client = OpenAI()
def call(script):
    stream = client.chat.completions.create(model="raw1", max_tokens=500, stream=True, stream_options={"include_usage": True},
        messages=[{"role": "user", "content": "hello"}], extra_headers={"X-Raw": script})
    return [c.usage.total_tokens for c in stream if c.usage][-1]
with ThreadPoolExecutor(8) as pool:
    print("told", sum(pool.map(call, os.environ["SCRIPTS"].split())))
`
	nodeStreams = `
const OpenAI = require("openai").default;
const client = new OpenAI();
const scripts = process.env.SCRIPTS.split(" ");
let told = 0;
async function worker() {
  for (let script; (script = scripts.pop()); ) {
    const stream = await client.chat.completions.create({ model: "raw1", max_tokens: 500, stream: true, stream_options: { include_usage: true },
      messages: [{ role: "user", content: "hello" }] }, { headers: { "X-Raw": script } });
    let usage;
    for await (const chunk of stream) usage = chunk.usage ?? usage;
    told += usage.total_tokens;
  }
}
Promise.all(Array.from({ length: 8 }, worker)).then(() => console.log("told", told));
`
)

// TestSDKsThatEndAtDone: none of their streams is estimated, though the provider ends its
// answers up to 50 ms after [DONE], which OpenAI's Python SDK does not wait for.
func TestSDKsThatEndAtDone(t *testing.T) {
	const streams = 200
	var scripts []string
	sum := int64(0)
	for n := range int64(streams) {
		in, out := 5+n, 1+n*n%97
		sum += in + out
		scripts = append(scripts, rawprovider.Script(rawprovider.Send(rawprovider.SSE),
			rawprovider.Send(strings.Repeat(`data: {"choices":[{"index":0,"delta":{"content":"word"}}]}`+"\n\n", int(n%7))),
			rawprovider.Send(fmt.Sprintf(`data: {"choices":[],"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}}`+"\n\ndata: [DONE]\n\n", in, out, in+out)),
			fmt.Sprintf("~%.3f", float64(n%51)/1000)))
	}
	for name, run := range map[string]struct {
		env, dir string
		command  []string
	}{
		"python": {"PYTHONPATH=" + toolcache.Python(t, pythonSDK), "", []string{"python3", "-c", pythonStreams}},
		"node":   {"X=", nodeFolder(t, "node", nodeSDK), []string{"node", "-e", nodeStreams}},
	} {
		t.Run(name, func(t *testing.T) {
			who := newAccount(t)
			out := runSDK(t, who, []string{run.env, "SCRIPTS=" + strings.Join(scripts, " ")}, run.dir, run.command...)
			if want := fmt.Sprintf("told %d", sum); strings.TrimSpace(out) != want {
				t.Fatalf("want the SDK to be %s, got %s", want, out)
			}
			wantBooks(t, who, "raw", streams, sum)
		})
	}
}
