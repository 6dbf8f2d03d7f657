-- Steps that hold, settle and expire share. They mirror ratelimit/bucket, operation by
-- operation on the same doubles; a test compares the two.
--
-- A bucket is five little-endian doubles: settled, held, at, and its form: rate (of a window when
-- one of them begins, 0 for those that count from the epoch) and window. Four more follow for what a
-- change left to pay (settled, at, rate, -1), and for each form that it had before and that is not
-- empty yet, at most three, the last first: settled, at, rate, window. Three doubles alone are a
-- bucket from before there were forms. It has no expiry while anything is held, so that no hold
-- outlives the bucket that counts it, and else vanishes when it would be empty.
-- A pool is a letter (P there is one, N there is none) and seven doubles: version,
-- credits, spent, held, anchor, window and the number of the window that spent is of; and an
-- eighth where something was spent in that window and given back by corrections; then a byte, if the
-- window has not begun by this server's clock, but by the ledger's. It is forgotten a week after its
-- last use, or a day after the token service said that there is none; it is asked for anew then.
-- A record is its state and five doubles (held, charged, output, expires or when the sweeper
-- charged it, and the pool's window it draws on or -1), and unless it was settled in time the
-- time it was taken, the length of the pool's name and the name, how many buckets hold tokens, for each rate,
-- window, the length of its key and the key, then a byte that is 1 if it is given back when
-- it expires, and the facts. States: H held, S settled, X expired and its
-- event not published yet, E expired and published, C expired and corrected by a settlement.

-- What is settled is remembered in few keys, many calls in each: 33 bytes for a call, which are ten of
-- a hash over its account and id, the second in which it was settled, what it held, was charged and
-- might put out, and a byte that is 1 if it drew on a pool. The oldest come first.

-- remembered is where a call stands in a memory, or nil.
local function remembered(memory, print)
  local at = string.find(memory, print, 1, true)
  while at and (at - 1) % 33 ~= 0 do at = string.find(memory, print, at + 1, true) end
  return at
end

-- recall is what a call there held, was charged and might put out, and 1 if it drew on a pool.
local function recall(memory, at)
  return struct.unpack('<I6I6I6B', memory, at + 14)
end

-- lasts is how long a bucket with nothing held is kept, in milliseconds.
local function lasts(settled, rate, window, now, at)
  local us = 86400000000
  if window > 0 then
    us = at + window - now
  elseif rate > 0 then
    us = math.min(settled / rate, 31622400000000)
  end
  return math.ceil(us / 1000) + 1000
end

-- forms are the functions for buckets that may be in another form. They are made when they are needed:
-- a script makes its functions anew in every call, and most calls find every bucket in its form.
local function forms()
  -- drain is what is settled in a form at now, and its time (Drain).
  local function drain(settled, at, rate, window, now)
    if window > 0 then
      local begin = now - math.fmod(now - rate, window)
      if begin > at then return 0, begin end
      if at - begin > window then return settled, begin end
    elseif now > at then
      return math.max(0, settled - rate * (now - at)), now
    elseif at - now > 60000000 then
      return settled, now
    end
    return settled, at
  end

  -- alike says whether two forms are one in other numbers (Form.like).
  local function alike(rate, window, other, length)
    if window == 0 or length == 0 then return window == length end
    return (rate == 0) == (other == 0) and math.abs(window - length) <= math.floor(length / 8)
  end

  -- turned is a bucket that was kept in another form, in this one (Turn, which has the reasons). What
  -- the form before had counts on beside it.
  local function turned(value, capacity, rate, window, now)
    local s, h, at, r, w = struct.unpack('<ddddd', value)
    s, at = drain(s, at, r, w, now)
    local begin = at
    if window > 0 then
      begin = now - math.fmod(now - rate, window)
      if w > 0 and begin >= at + w then s = 0 end
    elseif w > 0 then
      begin = now
    end
    local level, rest = s, string.sub(value, 41)
    if not alike(rate, window, r, w) or window > 0 and begin ~= at then
      local others, found, debt = '', nil, nil
      for pos = 41, #value, 32 do
        local cs, ca, cr, cw = struct.unpack('<dddd', value, pos)
        if not found and alike(rate, window, cr, cw) then
          cs, ca = drain(cs, ca, cr, cw, now)
          if window > 0 and cw > 0 and begin >= ca + cw then cs = 0 end
          found = cs
        elseif cw == -1 then
          debt = string.sub(value, pos, pos + 31)
        else
          others = others .. string.sub(value, pos, pos + 31)
        end
      end
      level, rest = found or s, ''
      if window > 0 and s > capacity and capacity > 0 and not debt then
        debt = struct.pack('<dddd', s, now, capacity / window, -1)
      end
      if s > 0 then rest = struct.pack('<dddd', s, at, r, w) end
      rest = (debt or '') .. string.sub(rest .. others, 1, 96)
    end
    return struct.pack('<ddddd', level, h, begin, rate, window) .. rest
  end

  -- owing is a bucket of windows with what a change left to pay (Turn).
  local function owing(value, rate, window, now)
    local s, h, at = struct.unpack('<ddd', value)
    s, at = drain(s, at, rate, window, now)
    for pos = 41, #value, 32 do
      local cs, ca, cr, cw = struct.unpack('<dddd', value, pos)
      if cw == -1 then s = math.max(s, (drain(cs, ca, cr, cw, now))) end
    end
    return struct.pack('<ddd', s, h, at) .. string.sub(value, 25)
  end

  -- counted is what the forms before come to when more is settled, and how long the slowest of them
  -- lasts, in milliseconds. What is to pay grows by what was admitted.
  local function counted(value, more, admitted, now)
    local rest, slowest = '', 0
    for pos = 41, #value, 32 do
      local s, at, rate, window = struct.unpack('<dddd', value, pos)
      s, at = drain(s, at, rate, window, now)
      s = math.max(0, s + (window == -1 and admitted or more))
      if s > 0 then
        rest = rest .. struct.pack('<dddd', s, at, rate, window)
        slowest = math.max(slowest, lasts(s, rate, window, now, at))
      end
    end
    return rest, slowest
  end

  return turned, owing, counted, drain
end
