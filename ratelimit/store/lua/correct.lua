
-- correct replaces a charge of before by one of after, in the pool and each of the buckets that a
-- hold is counted in. What was charged too much is given back as far as it is still there: of a
-- window's charge nothing once another window has begun, and of a bucket's not what has drained
-- since it was charged, lest the bucket be emptier than if the right charge had come at once. Where
-- the charge is told already, the token service may still count it in what is spent: what is given
-- back is counted beside it (balance.lua).
local function correct(key, record, now, before, after, since, told)
  whole(key, record)
  local window, _, provider, n, pos = struct.unpack('<ddBc0B', record, 34)
  local more = after - before
  if window >= 0 then
    local pool = poolOf(key, provider)
    local value = redis.call('GET', pool)
    if value then
      local state, version, credits, spent, drawn, anchor, span, index, rest = struct.unpack('<c1ddddddd', value)
      local returned = 0
      if #value >= rest then returned = struct.unpack('<d', value, rest) end
      if window >= index then
        local back = math.min(spent, math.max(0, -more))
        spent = spent + math.max(0, more) - back
        if told then returned = returned + back end
      end
      value = struct.pack('<c1dddddddd', state, version, credits, spent, drawn, anchor, span, index, returned) .. string.sub(value, rest + 8)
      keepPool(pool, value, drawn)
    end
  end
  for _ = 1, n do
    local rate, window, key, following = struct.unpack('<ddHc0', record, pos)
    pos = following
    local s, h, at, value
    s, h, at, rate, window, value = drained(key, rate, window, now)
    local before = s
    if more > 0 then
      s = s + more
    elseif window > 0 then
      if since >= at then s = math.max(0, s + more) end
    else
      s = math.max(0, s - math.max(0, -more - rate * math.max(0, now - since)))
    end
    keep(key, s, h, at, rate, window, value, s - before, now)
  end
end

