"""Times the scripts of the request path in LuaJIT alone, without Envoy around them: the guard for
bodies of several shapes, and the usage reader for a stream of 50 chunks. It says what a change of a
script costs where a whole request is too noisy to tell.

    python3 -m pip install lupa
    python3 bench/lua.py
"""

import pathlib

from lupa import luajit21

SCRIPTS = pathlib.Path(__file__).parent.parent / "envoy"

HARNESS = rb"""
local function nothing() end
local metadata = { set = nothing }
local info = { dynamicMetadata = function() return metadata end }
local sent = { ["content-type"] = "application/json", [":path"] = "/v1/chat/completions" }
local headers = { get = function(_, name) return sent[name] end, replace = nothing }
local answers = { family = "openai", dialect = "chat", max_bytes = 1e9 }
local context = { get = function(_, name) return answers[name] end }

local function handle(text)
  local buffer = { length = function() return #text end, getBytes = function() return text end }
  return { headers = function() return headers end, body = function() return buffer end, filterContext = function() return context end,
    streamInfo = function() return info end, clearRouteCache = nothing, respond = function(_, _, message) error(message) end }
end

function time_guard(text, n)
  local h = handle(text)
  local start = os.clock()
  for _ = 1, n do envoy_on_request(h) end
  return (os.clock() - start) / n * 1e6
end

function time_usage(chunk, last, chunks, n)
  local start = os.clock()
  for _ = 1, n do
    local r = usage.reader(true)
    for _ = 1, chunks do usage.feed(r, chunk) end
    usage.feed(r, last)
    usage.report(r)
  end
  return (os.clock() - start) / n * 1e6
end
"""


def runtime(*files):
    lua = luajit21.LuaRuntime(encoding=None)
    lua.execute(b"".join((SCRIPTS / name).read_bytes() for name in files) + b"\n" + HARNESS)
    return lua.globals()


def best(f, *args):
    f(*args)  # compiles it
    return min(f(*args) for _ in range(9))


def chat(messages, more=b""):
    return b'{"model":"gpt-4o-mini","max_tokens":100,"messages":[' + b",".join(messages) + b"]" + more + b"}"


TOOL = (b'{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":'
        b'{"a":{"type":"string","description":"first"},"b":{"type":"integer"}},"required":["a"]}}}')
BODIES = {
    "a prompt of 4 kB": chat([b'{"role":"user","content":"' + b"x" * 4096 + b'"}']),
    "20 messages of 200 bytes": chat([b'{"role":"user","content":"' + b"hello world " * 17 + b'"}'] * 20),
    "15 tools": chat([b'{"role":"user","content":"hi"}'], b',"tools":[' + b",".join([TOOL] * 15) + b"]"),
}

guard = runtime("json.lua", "parts.lua", "bodies.lua", "guard.lua")
for name, body in BODIES.items():
    print(f"guard, {name}: {best(guard.time_guard, body, 20000):.1f} us")

CHUNK = (b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"gpt-4o","choices":'
         b'[{"index":0,"delta":{"content":"word"},"finish_reason":null}],"usage":null}\n\n')
LAST = b'data: {"choices":[],"usage":{"prompt_tokens":100,"completion_tokens":50,"total_tokens":150}}\n\ndata: [DONE]\n\n'
reader = runtime("usage_scan.lua", "usage_text.lua", "usage.lua")
print(f"usage reader, 50 chunks one by one: {best(reader.time_usage, CHUNK, LAST, 50, 2000):.1f} us")
print(f"usage reader, 50 chunks in one read: {best(reader.time_usage, CHUNK * 50, LAST, 1, 2000):.1f} us")
