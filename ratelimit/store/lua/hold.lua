-- Takes the cost from every bucket or from none.
-- KEYS: the hold's key if the hold is recorded, then a key for each bucket.
-- ARGV: 1 six doubles: now (0: the server's clock), cost in requests, input tokens,
-- output tokens (0 asks for fill), fill, microseconds the hold lives (0: not recorded);
-- 2 the record's tail; then for each bucket a kind (t tokens, r requests; T and R count
-- and never refuse) and three doubles: capacity, rate, window.
-- Answer: the outcome and three doubles, now, held and output, then each bucket as it is
-- after the call. Outcomes: A admitted, R refused, D held before by the same request.
--
-- A call of redis.call costs as much as a page of arithmetic and a table more than
-- draining a bucket again, so buckets are drained once to decide and once to write.
local now, requests, input, output, fill, life = struct.unpack('<dddddd', ARGV[1])
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000000 + t[2]
end
local values = redis.call('MGET', unpack(KEYS))
local first = life > 0 and 1 or 0
local n = #KEYS - first
local granted, fits = output, true
local filling = output == 0 and fill > 0
if filling then granted = fill end

for i = 1, n do
  local kind, capacity, rate, window = struct.unpack('<c1ddd', ARGV[i + 2])
  if kind == 'r' or kind == 't' then
    local level = 0
    local held = 0
    if values[first + i] then
      local settled, h, at = struct.unpack('<ddd', values[first + i])
      held = h
      if window > 0 then
        if now - math.fmod(now, window) > at then settled = 0 end
      elseif now > at then
        settled = settled - rate * (now - at)
        if settled < 0 then settled = 0 end
      end
      level = settled + held
    end
    if kind == 'r' then
      fits = fits and level + requests <= capacity
    elseif not filling then
      fits = fits and level + (input + output) <= capacity
    else
      local left = math.floor(capacity - level - input)
      if left < math.min(16, fill) then
        fits = false
      else
        local least = math.min(fill, math.max(16, math.floor(capacity / 8)))
        fits = fits and (left >= least or held <= 0)
        granted = math.min(granted, left, math.max(least, math.floor(left / 4)))
      end
    end
  end
end

local outcome, cost = 'A', input + granted
if first == 1 and values[1] then
  local _, h, _, o = struct.unpack('<c1ddd', values[1])
  outcome, cost, granted = 'D', h, o
elseif not fits then
  outcome, cost, granted = 'R', 0, 0
end
local reply = struct.pack('<c1ddd', outcome, now, cost, granted)
local writes = { false, false }
if first == 1 then
  writes[1] = KEYS[1]
  writes[2] = struct.pack('<c1dddd', 'H', cost, 0, granted, now + life) .. ARGV[2]
end
local w = 2 * first

for i = 1, n do
  local kind, _, rate, window = struct.unpack('<c1ddd', ARGV[i + 2])
  local settled, held, at = 0, 0, now
  if values[first + i] then
    settled, held, at = struct.unpack('<ddd', values[first + i])
  end
  if window > 0 then
    local begin = now - math.fmod(now, window)
    if begin > at then settled = 0 end
    at = begin
  else
    if now > at then
      settled = settled - rate * (now - at)
      if settled < 0 then settled = 0 end
    end
    at = now
  end
  if outcome == 'A' then
    if kind == 't' or kind == 'T' then
      held = held + cost
    else
      settled = settled + requests
    end
  end
  local state = struct.pack('<ddd', settled, held, at)
  reply = reply .. state
  if outcome == 'A' then
    if held > 0 then
      writes[w + 1] = KEYS[first + i]
      writes[w + 2] = state
      w = w + 2
    else
      redis.call('SET', KEYS[first + i], state, 'PX', lasts(settled, rate, window, now))
    end
  end
end
if outcome == 'A' and w > 0 then
  redis.call('MSET', unpack(writes, 1, w))
end
return reply
