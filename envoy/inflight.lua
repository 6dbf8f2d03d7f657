-- The bodies in flight: nobody makes Envoy hold more than a share of its memory in bodies that
-- have not arrived yet.
--
-- It stands behind ext_authz, so that the caller is known, and before the filter that buffers.
-- What a request says it will send is counted, for its caller and for all together, until the
-- last byte is there; a request that would go over either bound is refused before a byte of it is
-- kept. One that states no length counts as the largest that is accepted. Small bodies always
-- find room in the bound for all, so that callers with large ones keep nobody else out.
--
-- Nobody tells a script that its stream was reset: its coroutine just never runs again. So the
-- counts sit in tables with weak keys, the coroutines. The sum that is kept beside them can only
-- be too large; when it is in the way, the dead are collected and the living counted. That takes
-- a full collection, so each share does it at most once in RECOUNT milliseconds.
--
-- Each worker thread of Envoy has a state of its own, so the bounds are one worker's.

local RECOUNT = 50
local SMALL = 65536 -- bytes; what a stream's window lets through before anybody is asked

-- share is what some streams have under way together.
local function share()
  return { bytes = 0, streams = setmetatable({}, { __mode = "k" }), counted = 0 }
end

local all, callers = share(), {} -- callers by user id

-- fits tells whether there is room for size more bytes; it forgets the streams that ended
-- without saying so if that is what it takes.
local function fits(s, size, most, now)
  if s.bytes + size > most and now - s.counted >= RECOUNT then
    s.counted = now
    collectgarbage()
    local sum = 0
    for _, bytes in pairs(s.streams) do sum = sum + bytes end
    s.bytes = sum
  end
  return s.bytes + size <= most
end

local function take(s, stream, size)
  s.streams[stream] = size
  s.bytes = s.bytes + size
end

local function give_back(s, stream, size)
  s.streams[stream] = nil
  s.bytes = s.bytes - size
end

function envoy_on_request(h)
  local auth = h:streamInfo():dynamicMetadata():get("envoy.filters.http.ext_authz")
  local context = h:filterContext()
  local largest = context:get("max_bytes")
  local size = tonumber(h:headers():get("content-length") or "") or largest
  if size > largest then return h:respond({ [":status"] = "413" }, "the body is too large") end

  local user = auth and auth["user"] or ""
  local caller, now = callers[user] or share(), h:timestamp()
  if not fits(caller, size, context:get("caller_bytes"), now) then
    return h:respond({ [":status"] = "429" },
      "too many request bodies of this caller are on their way at once: send fewer in parallel, or smaller ones")
  end
  if size > SMALL and not fits(all, size, context:get("all_bytes"), now) then
    return h:respond({ [":status"] = "429" }, "too many large request bodies are on their way at once: try again")
  end

  local stream = coroutine.running()
  callers[user] = caller
  take(caller, stream, size)
  take(all, stream, size)
  for _ in h:bodyChunks() do end -- passes each on
  give_back(caller, stream, size)
  give_back(all, stream, size)
  if caller.bytes <= 0 then callers[user] = nil end
end
