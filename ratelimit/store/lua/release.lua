
-- release replaces what a hold holds by what is charged, in each of its buckets.
local function release(record, now, held, charged)
  local n, pos = struct.unpack('<B', record, 34)
  for _ = 1, n do
    local rate, window, key, after = struct.unpack('<ddHc0', record, pos)
    pos = after
    local s, h, at = 0, 0, now
    local value = redis.call('GET', key)
    if value then s, h, at = struct.unpack('<ddd', value) end
    if window > 0 then
      local begin = now - math.fmod(now, window)
      if begin > at then s = 0 end
      at = begin
    else
      if now > at then
        s = s - rate * (now - at)
        if s < 0 then s = 0 end
      end
      at = now
    end
    h, s = h - held, s + charged
    if h < 0 then h = 0 end
    value = struct.pack('<ddd', s, h, at)
    if h > 0 then
      redis.call('SET', key, value)
    else
      redis.call('SET', key, value, 'PX', lasts(s, rate, window, now))
    end
  end
end

-- clock is the time in microseconds: the one a test passes, or the server's.
local function clock(now)
  if now > 0 then return now end
  local t = redis.call('TIME')
  return t[1] * 1000000 + t[2]
end
