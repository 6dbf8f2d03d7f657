-- Steps that hold, settle and expire share. They mirror ratelimit/bucket, operation by
-- operation on the same doubles; a test compares the two.
--
-- A bucket is three little-endian doubles: settled, held, at. It has no expiry while
-- anything is held, so that no hold outlives the bucket that counts it, and else
-- vanishes when it would be empty.
-- A pool is a letter (P there is one, N there is none) and seven doubles: version,
-- credits, spent, held, anchor, window and the number of the window that spent is of; and an
-- eighth where something was spent in that window and given back by corrections. It
-- is forgotten a week after its last use, or a day after the token service said that there
-- is none; it is asked for anew then.
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
