-- Writes what the token service says of a pool, unless it said later things before.
-- KEYS[1]: the pool. ARGV: 1 eight doubles: now (0: the server's clock), whether there is
-- a pool (1 or 0), version, credits, spent, anchor, window, and when spent was read.
-- Answer: the pool as it is after the call.
local now, present, version, credits, spent, anchor, span, read = struct.unpack('<dddddddd', ARGV[1])
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000000 + t[2]
end
-- number is which window t is in.
local function number(t)
  if span <= 0 or t < anchor then return 0 end
  return math.floor((t - anchor) / span)
end

-- carried is what is spent of a window when so many more have begun: what is overdrawn stays
-- so until the windows have paid it.
local function carried(spent, credits, windows)
  if windows <= 0 then return spent end
  return math.max(0, spent - windows * credits)
end

local value = redis.call('GET', KEYS[1])
local drawn, index = 0, number(now)
local of = number(read)
if not value then
  -- Their clock may run ahead of ours: what was spent in our future was spent all the same.
  spent = carried(spent, credits, index - of)
else
  local state, v, c, s, d, a, w, i = struct.unpack('<c1ddddddd', value)
  drawn = d
  if state == 'P' and present == 1 and a == anchor and w == span then
    index = math.max(index, i)
    s = carried(s, c, index - i)
    spent = of > index and 0 or carried(spent, credits, index - of)
    spent = math.max(spent, s)
    if version < v then
      version = v
      credits = c
    end
  elseif version < v or version == v and state == 'P' then
    return value
  else
    spent = carried(spent, credits, index - of)
  end
end
value = struct.pack('<c1ddddddd', present == 1 and 'P' or 'N', version, credits, spent, drawn, anchor, span, index)
if drawn > 0 then
  redis.call('SET', KEYS[1], value)
else
  redis.call('SET', KEYS[1], value, 'PX', present == 1 and 604800000 or 86400000)
end
return value
