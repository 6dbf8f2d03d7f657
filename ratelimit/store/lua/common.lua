-- Steps that hold, settle and expire share. They mirror ratelimit/bucket, operation by
-- operation on the same doubles; a test compares the two.
--
-- A bucket is three little-endian doubles: settled, held, at. It has no expiry while
-- anything is held, so that no hold outlives the bucket that counts it, and else
-- vanishes when it would be empty.
-- A record is its state and four doubles (held, charged, output, expires), and while the
-- hold is not settled how many buckets hold tokens, for each rate, window, the length of
-- its key and the key, and then the facts. States: H held, S settled, X expired and its
-- event not published yet, E expired and published.

-- lasts is how long a bucket with nothing held is kept, in milliseconds.
local function lasts(settled, rate, window, now)
  local us = 86400000000
  if window > 0 then
    us = window - math.fmod(now, window)
  elseif rate > 0 then
    us = math.min(settled / rate, 31622400000000)
  end
  return math.ceil(us / 1000) + 1000
end
