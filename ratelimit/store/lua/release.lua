local _, _, counted, drain = forms()

-- drained is a bucket as it is now: settled, held, at, its form (the one that is given where it has
-- none), and as it was.
local function drained(key, rate, window, now)
  local s, h, at = 0, 0, 0
  local value = redis.call('GET', key) or ''
  if value ~= '' then s, h, at = struct.unpack('<ddd', value) end
  if #value >= 40 then rate, window = struct.unpack('<dd', value, 25) end
  s, at = drain(s, at, rate, window, now)
  return s, h, at, rate, window, value
end

-- keep writes a bucket in which more is settled than in value, as it was. It stands while anything
-- is held.
local function keep(key, s, h, at, rate, window, value, more, now)
  local rest, slowest = counted(value, more, more, now)
  value = struct.pack('<ddddd', s, h, at, rate, window) .. rest
  if h > 0 then
    redis.call('SET', key, value)
  else
    redis.call('SET', key, value, 'PX', math.max(slowest, lasts(s, rate, window, now, at)))
  end
end

-- keepPool writes a pool, which is forgotten a week after its last use.
local function keepPool(key, value, drawn)
  if drawn > 0 then
    redis.call('SET', key, value)
  else
    redis.call('SET', key, value, 'PX', 604800000)
  end
end

-- poolOf is the key of a pool beside a hold's.
local function poolOf(key, provider)
  return string.sub(key, 1, string.find(key, '}:h:', 1, true)) .. ':p:' .. provider
end

-- whole ends the call, before it has written anything, while some of the keys that a record names are
-- on another server of a cluster: a slot moves from one to the other key by key. No script names these
-- keys, so that the server does not look for them, and to a server that takes a slot over, a key that
-- has not come yet is one that is not there: the bucket would lose what it counts, and the slot could
-- not move on for two buckets of one name. The server refuses, though, to read several keys of which it
-- has not all while their slot moves.
local function whole(key, record)
  if not clustered then return end
  local window, _, provider, n, pos = struct.unpack('<ddBc0B', record, 34)
  local keys = { key }
  if window >= 0 then keys[2] = poolOf(key, provider) end
  for _ = 1, n do
    local _, _, bucket, after = struct.unpack('<ddHc0', record, pos)
    pos = after
    keys[#keys + 1] = bucket
  end
  redis.call('MGET', unpack(keys))
end

-- release replaces what a hold holds by what is charged, in its pool and each of its
-- buckets. A charge counts in the pool's window that the hold was taken in; when that one
-- is over it counts nowhere here, as its rest is gone too. It tells of a bucket that is not there,
-- though it stands while anything is held: the server lost it, with what was settled there; and
-- whether it is known that the call holds nothing in buckets that all accounts share (see cluster.go).
local function release(key, record, now, held, charged)
  whole(key, record)
  local window, _, provider, n, pos = struct.unpack('<ddBc0B', record, 34)
  if window >= 0 then
    local pool = poolOf(key, provider)
    local value = redis.call('GET', pool)
    if value then
      local state, version, credits, spent, drawn, anchor, span, index, rest = struct.unpack('<c1ddddddd', value)
      drawn = math.max(0, drawn - held)
      if window >= index then spent = spent + charged end
      value = struct.pack('<c1ddddddd', state, version, credits, spent, drawn, anchor, span, index) .. string.sub(value, rest)
      keepPool(pool, value, drawn)
    end
  end
  local lost = false
  for _ = 1, n do
    local rate, window, key, after = struct.unpack('<ddHc0', record, pos)
    pos = after
    local s, h, at, value
    s, h, at, rate, window, value = drained(key, rate, window, now)
    lost = lost or value == ''
    h, s = h - held, s + charged
    if h < 0 then h = 0 end
    keep(key, s, h, at, rate, window, value, charged, now)
  end
  return lost, string.byte(record, pos) == 2
end

-- clock is the time in microseconds: the one a test passes, or the server's.
local function clock(now)
  if now > 0 then return now end
  local t = redis.call('TIME')
  return t[1] * 1000000 + t[2]
end
