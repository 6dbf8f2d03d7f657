-- Writes what the token service says of a pool, unless it said later things before.
-- KEYS[1]: the pool. ARGV: 1 ten doubles: now (0: the server's clock), whether there is
-- a pool (1 or 0), version, credits, spent, anchor, window, when spent was read, what was spent
-- in the window and given back since, and 1 where only a pool that is known here is written: then it may
-- be long ago that it was read, else it was asked for just now.
-- Answer: the pool as it is after the call; empty: it is not known here.
--
-- Whoever hears of a charge first is right, and likewise of what is given back: within a window
-- both sums only grow, what was ever spent (spent and given back together) and what was given back.
--
-- A pool may be in a window that has not begun for more than a minute: the server's clock was ahead, and
-- what was spent before is forgotten; or it is behind, and would refill when it comes to the same border
-- again. The ledger's clock decides. By one that is not there yet, if it was asked just now, the pool is in
-- an earlier window, and what was spent since counts there. By one that is, the pool stays where it is.
local now, present, version, credits, spent, anchor, span, read, returned, known = struct.unpack('<dddddddddd', ARGV[1])
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
if known == 1 and not value then return '' end
local drawn, index = 0, number(now)
local of = number(read)
local early, begun = false, false -- the window has not begun by our clock; but by the ledger's
if not value then
  -- Their clock may run ahead of ours: what was spent in our future was spent all the same.
  spent = carried(spent, credits, index - of)
  if of ~= index then returned = 0 end
else
  local state, v, c, s, d, a, w, i, rest = struct.unpack('<c1ddddddd', value)
  drawn = d
  if state == 'P' and present == 1 and a == anchor and w == span then
    early = i > index and anchor + i * span - now > 60000000
    if early and known == 0 then
      index = math.max(index, math.min(i, of))
    else
      index = math.max(index, i)
      begun = #value > rest + 7
    end
    early = early and index > number(now)
    local ever, back = 0, 0 -- as it is here
    if index <= i and #value >= rest then back = struct.unpack('<d', value, rest) end
    ever = carried(s, c, index - i) + back
    if of ~= index then returned = 0 end
    spent = (of > index and 0 or carried(spent, credits, index - of)) + returned
    returned = math.max(returned, back)
    spent = math.max(0, math.max(spent, ever) - returned)
    if version < v then
      version = v
      credits = c
    end
  elseif version < v or version == v and state == 'P' then
    return string.sub(value, 1, rest - 1)
  else
    spent = carried(spent, credits, index - of)
    if of ~= index then returned = 0 end
  end
end
begun = early and (begun or of >= index)
local told = struct.pack('<c1ddddddd', present == 1 and 'P' or 'N', version, credits, spent, drawn, anchor, span, index)
value = told
if returned > 0 or begun then value = value .. struct.pack('<d', returned) end
if begun then value = value .. '1' end
if drawn > 0 then
  redis.call('SET', KEYS[1], value)
else
  redis.call('SET', KEYS[1], value, 'PX', present == 1 and 604800000 or 86400000)
end
return told
