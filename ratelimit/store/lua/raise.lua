-- Raises what is settled in a bucket to what the books know, if that is more. What is held stays:
-- the books know a call once it is settled.
-- KEYS[1]: the bucket. ARGV: 1 five doubles: now (0: the server's clock), what was used, capacity and
-- form (rate and window).
local now, used, capacity, rate, window = struct.unpack('<ddddd', ARGV[1])
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000000 + t[2]
end
local turned, _, _, drain = forms()
local value = redis.call('GET', KEYS[1])
local settled, held, at, rest = 0, 0, now, ''
if value then
  if #value >= 40 then
    local r, w = struct.unpack('<dd', value, 25)
    if r ~= rate or w ~= window then value = turned(value, capacity, rate, window, now) end
    rest = string.sub(value, 41)
  end
  settled, held, at = struct.unpack('<ddd', value)
  settled, at = drain(settled, at, rate, window, now)
elseif window > 0 then
  at = now - math.fmod(now - rate, window)
end
settled = math.max(settled, used)
value = struct.pack('<ddddd', settled, held, at, rate, window) .. rest
if held > 0 or rest ~= '' then
  redis.call('SET', KEYS[1], value)
else
  redis.call('SET', KEYS[1], value, 'PX', lasts(settled, rate, window, now, at))
end
return ''
