-- Takes the cost of a request from the pool and every bucket, or from none.
--
-- Each bucket is a leaky bucket as a meter (ITU-T I.371): a level that drains at a steady rate and
-- that an arrival raises by its cost, if it then still is at most the capacity. It is GCRA in other
-- words: GCRA keeps the time at which the bucket would be empty (TAT) instead of a level and a
-- time, one number instead of two. That is not enough here: a call holds the most it can use until
-- it settles, and what is held must not drain meanwhile. So a bucket has two levels, settled and
-- held, and a time. A fixed window is a bucket that does not drain and is emptied at the window's
-- begin; a token bucket is the same bucket seen from the other end.
--
-- KEYS: the hold's key and that of the memory of settled ones if the hold is recorded, the pool's if
-- it is asked, then a key for each bucket.
-- ARGV: 1 seven doubles: now (0: the server's clock), cost in requests, input tokens, output tokens
-- (0 asks for fill), fill, microseconds the hold lives (0: not recorded), the pool's part (0: not
-- asked, 1: drawn on if there is one, 2: required), and of a recorded hold its hash;
-- 2 the record's tail; then for each bucket its kind and three doubles: capacity and form, or
-- four: then the last is the bucket's own cost in requests, negative to give back; and at last, if
-- what Redis has lost matters to long limits, a double and a key: since when its data is whole as far
-- as the caller knows, and where that stands; or one below 0 alone: it may lose any key at any time.
--
--   kind  takes                       refuses          of a refused request
--   t     tokens, held                if there is no   takes nothing
--   r     requests, used at once      room             takes nothing
--   T, R  the same, but of a call     never            takes nothing
--         that has no room nothing
--   c     requests, whatever comes    if above the     takes all the same
--                                     capacity then
--   C     the same                    never            takes all the same
--
-- Answer: the outcome and three doubles, now, held and output, then the pool if it was asked and
-- each bucket, as they are after the call. A bucket of kind T or R is shown with a call that it
-- took nothing of, and so above capacity. Outcomes: A admitted, R a bucket refused, B the pool
-- holds too little, N there is no pool and one is required, M the pool is not known here, or it is
-- shown and what it says is of a window that has not begun, D held before by the same request, W a
-- long limit has no bucket and what stands at the key is something else, or any key may be lost: the
-- caller asks the books first.
--
-- What costs: a call of redis.call is as dear as a page of arithmetic, and a table dearer than
-- draining a bucket again. So everything is read by one MGET and mostly written by one MSET, and
-- buckets are drained twice, once to decide and once to write. Functions for the steps (drain,
-- fits, grant, charge) made a hold a quarter dearer, 14.3 to 18.3 microseconds of the server's only
-- thread, so the steps stand here in line, each under its name in ratelimit/bucket.

-- What is asked, and what is there.
local now, requests, input, output, fill, life, policy = struct.unpack('<ddddddd', ARGV[1])
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000000 + t[2]
end
local values = redis.call('MGET', unpack(KEYS))
local record = life > 0 and 1 or 0
local first = policy > 0 and 2 * record + 1 or 2 * record
local n = #KEYS - first

-- A call that moves to another model gives back first what it holds, and takes it again below if
-- there is no room for it there. (moving is said, and release written, by what stands before this in
-- the script for such calls: store.go puts them together.)
local before, had = moving and values[1], 0
if before and string.sub(before, 1, 1) == 'H' then
  local _, h = struct.unpack('<c1d', before)
  had = h
  release(KEYS[1], before, now, had, 0)
  values = redis.call('MGET', unpack(KEYS))
  values[1] = false
else
  before = false
end

local granted, fits = output, true
local filling = output == 0 and fill > 0
if filling then granted = fill end

-- Do all buckets have room (Fits)? The least that one of them grants is granted.
local lost = nil -- not looked yet
local changed = nil -- the places of buckets that were kept in another form
local turned, owing, counted
for i = 1, n do
  local kind, capacity, rate, window, own = struct.unpack('<c1ddd', ARGV[i + 2])
  local value = values[first + i]
  if not value and lost == nil and ARGV[n + 3] and (window >= 82800000000 or window == 0 and rate > 0 and capacity / rate >= 82800000000) then
    local begin = struct.unpack('<d', ARGV[n + 3])
    lost = begin < 0 or tonumber(redis.call('GET', string.sub(ARGV[n + 3], 9)) or -1) ~= begin
  end
  if value and #value >= 40 then
    local r, w = struct.unpack('<dd', value, 25)
    if r ~= rate or w ~= window then
      if not turned then turned, owing, counted = forms() end
      value = turned(value, capacity, rate, window, now)
      values[first + i] = value
      changed = changed or {}
      changed[i] = true
    end
    if #value > 40 and window > 0 then
      if not turned then turned, owing, counted = forms() end
      value = owing(value, rate, window, now)
      values[first + i] = value
    end
  end
  if kind == 'r' or kind == 't' or kind == 'c' then
    local level = 0
    local held = 0
    if value then -- Drain
      local settled, h, at = struct.unpack('<ddd', value)
      held = h
      if window > 0 then
        if now - math.fmod(now - rate, window) > at then settled = 0 end
      elseif now > at then
        settled = settled - rate * (now - at)
        if settled < 0 then settled = 0 end
      end
      level = settled + held
    end
    if kind ~= 't' then
      local hits = requests
      if #ARGV[i + 2] >= own then hits = struct.unpack('<d', ARGV[i + 2], own) end
      fits = fits and (level + hits <= capacity or hits < 0)
    elseif not filling then
      fits = fits and level + (input + output) <= capacity
    else -- Grant, which has the reasons
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

-- Does the pool cover it? In a new window of a subscription nothing is spent yet but what the
-- windows before were overdrawn by: each pays of it what it gives. A window that has not begun for more
-- than a minute, which is as long as buckets wait for a clock, was opened by a clock that was wrong then,
-- or this one is wrong now. Which, and so what is spent, the ledger tells (balance.lua), and it is asked
-- until it has told that the window has begun by its clock.
local refusal = not fits and 'R'
local state, version, credits, spent, drawn, anchor, span, index = '-', 0, 0, 0, 0, 0, 0, -1
local returned = '' -- as it is stored, with what follows; a call changes nothing of it
if policy > 0 and not values[first] then
  refusal = refusal or 'M'
elseif policy > 0 then
  state, version, credits, spent, drawn, anchor, span, index, returned = struct.unpack('<c1ddddddd', values[first])
  returned = string.sub(values[first], returned)
  if state == 'P' then
    local early = false
    if span > 0 then
      local current = math.floor((now - anchor) / span)
      if current > index then
        spent = math.max(0, spent - (current - index) * credits)
        index = current
        returned = ''
      elseif current < index then
        early = index > 0 and #returned <= 8 and anchor + index * span - now > 60000000
      end
    end
    local left = credits - spent - drawn - input
    if early then
      refusal = refusal or 'M'
    elseif not filling then
      if left < output then refusal = 'B' end
    elseif left < math.min(16, fill) then
      refusal = 'B'
    else
      granted = math.min(granted, left)
    end
  elseif policy == 2 then
    refusal = 'N'
  end
end

-- The outcome. A request that holds already gets its first answer again.
local outcome, cost = 'A', input + granted
local known = record == 1 and not values[1] and values[2] and remembered(values[2], string.sub(ARGV[1], 57))
if known then
  local h, _, o = recall(values[2], known)
  outcome, cost, granted = 'D', h, o
elseif record == 1 and values[1] then
  local _, h, _, o = struct.unpack('<c1ddd', values[1])
  outcome, cost, granted = 'D', h, o
elseif lost or refusal then
  outcome, cost, granted = lost and 'W' or refusal, 0, 0
end
local reply = struct.pack('<c1ddd', outcome, now, cost, granted)
-- What MSET writes: the record (its tail comes last), the pool, and buckets that hold something
-- and so do not expire. Others are SET with an expiry.
local writes = { false, false, false, false }
if record == 1 then
  writes[1] = KEYS[1]
  writes[2] = struct.pack('<c1dddddd', 'H', cost, 0, granted, now + life, state == 'P' and index or -1, now)
end
local w = 2 * record
if policy > 0 then
  if state == 'P' and outcome == 'A' then drawn = drawn + cost end
  local pool = struct.pack('<c1ddddddd', state, version, credits, spent, drawn, anchor, span, index)
  reply = reply .. pool
  if state == 'P' then
    writes[w + 1] = KEYS[first]
    writes[w + 2] = pool .. returned
    w = w + 2
  end
end

-- Each bucket after the request (Drain, then Hold or Use).
local part, gone = 0, nil -- buckets of tokens so far, and the places of those that take nothing
for i = 1, n do
  local kind, capacity, rate, window, own = struct.unpack('<c1ddd', ARGV[i + 2])
  local settled, held, at = 0, 0, 0
  local moved = changed and changed[i] -- or a stamp from far in the future: it counts as now from now on
  if values[first + i] then
    settled, held, at = struct.unpack('<ddd', values[first + i])
  end
  if window > 0 then
    local begin = now - math.fmod(now - rate, window)
    if begin > at then
      settled = 0
      at = begin
    elseif at - begin > window then
      at = begin
      moved = true
    end
  elseif now > at then
    settled = settled - rate * (now - at)
    if settled < 0 then settled = 0 end
    at = now
  elseif at - now > 60000000 then
    at = now
    moved = true
  end
  local stands = outcome == 'A' or kind == 'c' or kind == 'C'
  local used, running = settled, held
  if stands then
    local level = settled + held
    if kind == 't' or kind == 'T' then
      part = part + 1
      held = held + cost
    elseif #ARGV[i + 2] < own then
      settled = settled + requests
    else
      settled = math.max(0, settled + struct.unpack('<d', ARGV[i + 2], own))
    end
    if kind == 'T' or kind == 'R' then
      stands = settled + held <= capacity or settled + held <= level
      if not stands and kind == 'T' then
        gone = gone or {}
        gone[part] = true
      end
    end
  end
  local bucket = struct.pack('<ddd', settled, held, at)
  reply = reply .. bucket
  if moved and not stands then -- it took nothing, and is from now on at now
    settled, held = used, running
    bucket = struct.pack('<ddd', settled, held, at)
  end
  if stands or moved then
    bucket = bucket .. struct.pack('<dd', rate, window)
    local slowest = 0
    if values[first + i] and #values[first + i] > 40 then -- it had other forms
      if not turned then turned, owing, counted = forms() end
      local rest
      rest, slowest = counted(values[first + i], settled - used, outcome == 'A' and settled - used or 0, now)
      bucket = bucket .. rest
    end
    if held <= 0 then
      redis.call('SET', KEYS[first + i], bucket, 'PX', math.max(slowest, lasts(settled, rate, window, now, at)))
    elseif outcome == 'A' then
      writes[w + 1] = KEYS[first + i]
      writes[w + 2] = bucket
      w = w + 2
    else
      redis.call('SET', KEYS[first + i], bucket)
    end
  end
end
-- The record's tail names the buckets of tokens. Settling must not take out what did not go in, so
-- those that took nothing are left out.
if outcome == 'A' and w > 0 then
  local tail = ARGV[2]
  if record == 1 and gone then
    local provider, all, pos = struct.unpack('<Bc0B', tail)
    local kept, head, buckets = 0, struct.pack('<B', #provider) .. provider, ''
    for i = 1, all do
      local _, _, _, after = struct.unpack('<ddHc0', tail, pos)
      if not gone[i] then
        kept = kept + 1
        buckets = buckets .. string.sub(tail, pos, after - 1)
      end
      pos = after
    end
    tail = head .. struct.pack('<B', kept) .. buckets .. string.sub(tail, pos)
  end
  if record == 1 then writes[2] = writes[2] .. tail end
  redis.call('MSET', unpack(writes, 1, w))
end
if before and outcome ~= 'A' then release(KEYS[1], before, now, -had, 0) end
return reply
