-- The last part of the usage reader, after usage_scan.lua (the scanner of JSON, and what is told of
-- tokens) and usage_text.lua (the text of an event): the lines of a stream of events, and what Envoy
-- calls. Lua knows no inclusion, so the three are one script.

-- take_out appends what precedes s[a..b] to out; the next byte that passes is after b.
local function take_out(out, s, from, a, b)
  out = out or {}
  out[#out + 1] = sub(s, from, a - 1)
  return out, b + 1
end

-- events takes in a chunk of an event stream. It returns what goes on instead of the chunk,
-- nil for the chunk as it is. Bytes that may have to be taken out wait in r.rest, and so do
-- the first ones of a line that is not told from a data line yet.
local function events(r, s)
  local places, out, from = {}, nil, 1
  local waited, start = #r.rest, nil
  if waited > 0 then
    s = r.rest .. s
    if r.lone then start = 1 end
    r.rest, r.lone = "", false
  end
  local i, n = r.at, #s
  local before = r.bytes - n
  r.at = 1
  local returns = find(s, "\r", i, true)
  while true do
    if r.lf and i <= n then -- a CR ended the line; a LF after it belongs to it
      r.lf = false
      if byte(s, i) == LF then
        i = i + 1
        if r.gone then from = i end
      end
      r.gone = false
    end
    if i > n then break end
    local e
    if returns then e = find(s, "[\r\n]", i) else e = find(s, "\n", i, true) end
    local first, begin = r.line == nil, i
    if e == i and first then -- an empty line ends the event
      if r.depth > 0 or r.inside or r.skip > 0 then abandon(r) end
      start, r.may, r.other = nil, false, false
      if r.blank then
        out, from = take_out(out, s, from, e, e)
        r.blank, r.gone = false, true
      end
    else
      if first then
        r.blank, r.begun = false, before + begin - 1
        if sub(s, i, i + 4) == "data:" then
          r.line, i = "data", i + 5
        elseif not e and n - i < 4 and sub("data:", 1, n - i + 1) == sub(s, i) then
          break
        else
          r.line, r.other = "other", true
        end
      end
      if r.line == "data" then
        if first and e and plain(r, places, s, i, e) then
          r.line = nil
          skip(r, places, s, i, e)
        else
          if first and r.cuts and r.depth == 0 then
            start, r.may, r.cut = begin, true, false
          end
          data(r, places, s, i, (e or n + 1) - 1)
        end
      end
      if e and r.line then end_line(r) end
      if start and r.cut and e then
        out, from = take_out(out, s, from, start, e)
        start, r.cut, r.gone, r.blank = nil, false, true, not r.other
      elseif start and not r.may and not r.cut then
        start, r.other = nil, true
      end
    end
    if not e then
      i = n + 1
      break
    end
    r.lf = byte(s, e) == CR
    r.gone = r.gone and r.lf
    i = e + 1
  end
  local last = n
  if start and n - start < MAX_HELD then
    r.rest, r.at, r.lone, last = sub(s, start), i - start + 1, true, start - 1
  elseif start then
    r.may, r.cut = false, false
  elseif i <= n then
    r.rest = sub(s, i)
    last = i - 1
  end
  if not r.cuts or not out and from == 1 and waited == 0 and last == n then return nil end
  out = out or {}
  out[#out + 1] = sub(s, from, last)
  return concat(out)
end

-- feed takes in a chunk of the answer; it returns what goes on instead, nil: the chunk.
local function feed(r, s)
  r.bytes = r.bytes + #s
  if not r.kind then
    local i = find(s, "[^ \t\r\n\239\187\191]") -- the bytes of a byte order mark too
    if not i then return nil end
    local c = byte(s, i)
    r.kind = (c == OPEN or c == LIST) and "json" or "sse"
    r.list = c == LIST
    r.at = i
  end
  if r.kind == "sse" then return events(r, s) end
  if r.list then -- a list of answers is a stream
    produced_on(r, {}, s, r.at, #s)
    credit(r, true)
  end
  scan(r, s, r.at, #s)
  r.at = 1
  return nil
end

-- finish takes in the end of the answer; it returns what waited, if it is to go on.
local function finish(r)
  if r.kind == "sse" then
    end_line(r)
  elseif r.inside == WORD then
    scan(r, "\n", 1, 1)
  end
  r.dirty = true
  return r.cuts and not r.cut and r.rest or ""
end

-- report is what was found so far, as the access log writes it. The model comes last,
-- since it may hold any byte.
local function report(r)
  r.dirty = false
  local all = { format("events=%d,after=%d,bytes=%.0f", r.events, r.after, r.bytes) }
  if r.head > 0 then all[2] = format("head=%.0f", r.head) end
  if r.whole then all[#all + 1] = "whole=1" end
  if r.failed then all[#all + 1] = "failed=1" end
  if r.heavy then all[#all + 1] = "heavy=1" end
  for kind, name in ipairs(PRODUCED) do
    if r.made[kind] > 0 then all[#all + 1] = format("%s=%.0f", name, r.made[kind]) end
  end
  for _, name in ipairs(COUNTS) do
    local n = r.told[name]
    if n then all[#all + 1] = format("%s=%.0f", name, n) end
  end
  if r.model then all[#all + 1] = "model=" .. r.model end
  return concat(all, ",")
end

local function tell(h, text)
  h:streamInfo():dynamicMetadata():set("llm.answer", "report", text)
end

-- cuts says that the gateway asked for the usage of this stream and the caller did not.
local function cuts(h)
  local limit = h:streamInfo():dynamicMetadata():get("envoy.filters.http.ratelimit")
  return limit ~= nil and limit.ask_usage ~= nil
end

local CODED = {
  openai = '{"error":{"message":"the provider sent an encoded answer that nobody asked for","type":"server_error","param":null,"code":"provider_encoding"}}',
  anthropic = '{"type":"error","error":{"type":"api_error","message":"the provider sent an encoded answer that nobody asked for"},"request_id":"{id}"}',
  gemini = '{"error":{"code":502,"message":"the provider sent an encoded answer that nobody asked for","status":"UNAVAILABLE"}}',
}

-- refuse answers in place of a body in a coding that this gateway does not read.
local function refuse(h, headers)
  local asked = h:streamInfo():dynamicMetadata():get("llm.body") or {}
  local text = string.gsub(CODED[asked.family] or CODED.openai, "{id}", asked.id or "")
  headers:replace(":status", "502")
  headers:replace("content-type", "application/json")
  headers:replace("x-should-retry", "false")
  headers:remove("content-encoding")
  headers:replace("content-length", tostring(#text))
  tell(h, "coded=1")
  for chunk in h:bodyChunks() do
    chunk:setBytes(text)
    text = ""
  end
end

function envoy_on_response(h)
  local headers = h:headers()
  local status = headers:get(":status")
  if byte(status) ~= 50 then -- an error costs nothing; what it was is told
    return tell(h, "status=" .. status)
  end
  local coding = headers:get("content-encoding")
  if coding and lower(coding) ~= "identity" then return refuse(h, headers) end
  local r = reader(cuts(h))
  if r.cuts then headers:remove("content-length") end
  for chunk in h:bodyChunks() do
    local n = chunk:length()
    local instead
    if n > 0 then
      instead = feed(r, chunk:getBytes(0, n))
    elseif r.rest ~= "" then
      instead = finish(r) -- an empty chunk is the last one
      r.rest = ""
    end
    if instead then chunk:setBytes(instead) end
    if r.dirty then tell(h, report(r)) end
  end
  finish(r)
  tell(h, report(r))
end

-- For the tests, which run the reader without Envoy.
usage = { reader = reader, feed = feed, finish = finish, report = report }
