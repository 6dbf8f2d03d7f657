-- Steps that hold, settle and expire share. They mirror ratelimit/bucket, operation by
-- operation on the same doubles; a test compares the two.

-- clock is the time in microseconds: the server's, or the one a test passes.
local function clock(arg)
  if arg == '' then
    local t = redis.call('TIME')
    return t[1] * 1000000 + t[2]
  end
  return tonumber(arg)
end

-- drain gives a bucket's settled part, held part and time at now. value is what is
-- stored: "settled held at", or false for an empty bucket.
local function drain(value, rate, window, now)
  local settled, held, at = 0, 0, now
  if value then
    local s, h, t = string.match(value, '^(%S+) (%S+) (%S+)$')
    settled, held, at = tonumber(s), tonumber(h), tonumber(t)
  end
  if window > 0 then
    local begin = now - math.fmod(now, window)
    if begin > at then settled = 0 end
    return settled, held, begin
  end
  if now > at then
    settled = settled - rate * (now - at)
    if settled < 0 then settled = 0 end
  end
  return settled, held, now
end

-- store writes a bucket. It vanishes when it would be empty, and stands while anything
-- is held, so that no hold outlives the bucket that counts it.
local function store(key, text, settled, held, rate, window, now)
  if held > 0 then
    redis.call('SET', key, text)
    return
  end
  local us = 86400000000
  if window > 0 then
    us = window - math.fmod(now, window)
  elseif rate > 0 then
    us = math.min(settled / rate, 31622400000000)
  end
  redis.call('SET', key, text, 'PX', string.format('%.0f', math.ceil(us / 1000) + 1000))
end

local function format(settled, held, at)
  return string.format('%.17g %.0f %.0f', settled, held, at)
end

-- A record is "state held charged output expires buckets", then a line "rate window key"
-- for each bucket that holds tokens, then the facts. States: H held, S settled, X expired
-- and its event not published yet, E expired and published.
local function release(record, now, held, charged)
  local n, pos = string.match(record, '^%a %d+ %d+ %d+ %d+ (%d+)\n()')
  for _ = 1, tonumber(n) do
    local rate, window, key, after = string.match(record, '^(%S+) (%S+) ([^\n]*)\n()', pos)
    pos, rate, window = after, tonumber(rate), tonumber(window)
    local s, h, at = drain(redis.call('GET', key), rate, window, now)
    h, s = h - held, s + charged
    if h < 0 then h = 0 end
    store(key, format(s, h, at), s, h, rate, window, now)
  end
end
