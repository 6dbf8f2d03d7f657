-- Writes down a hold that was admitted while this server was away. What it holds is moved
-- from the lease that covered it; without one, or when the lease is gone, it is taken from
-- the buckets and the pool whether it fits or not: it was served.
-- KEYS: 1 the hold, 2 the memory of settled ones, 3 the lease, if there was one. ARGV: 1 four doubles:
-- now (0: the server's clock), tokens held, of those for the output, microseconds the hold lives; then
-- the hold's hash; 2 the record's tail. Answer: L moved from the lease, F taken by force, D there before.
local now, cost, output, life, print = struct.unpack('<ddddc10', ARGV[1])
if redis.call('EXISTS', KEYS[1]) == 1 then return 'D' end
local memory = redis.call('GET', KEYS[2])
if memory and remembered(memory, print) then return 'D' end
now = clock(now)
local lease = KEYS[3] and redis.call('GET', KEYS[3])
local answer, window = 'F', -1
if lease then
  local state, held, charged, granted, expires, drawn, pos = struct.unpack('<c1ddddd', lease)
  if state == 'H' and held >= cost then
    answer, window = 'L', drawn
    redis.call('SET', KEYS[3], struct.pack('<c1ddddd', state, held - cost, charged, granted, expires, drawn) .. string.sub(lease, pos))
  end
end
if answer == 'F' then
  local provider = struct.unpack('<Bc0', ARGV[2])
  local pool = provider ~= '' and redis.call('GET', string.sub(KEYS[1], 1, string.find(KEYS[1], '}:h:', 1, true)) .. ':p:' .. provider)
  if pool and string.sub(pool, 1, 1) == 'P' then
    local _, _, _, _, _, anchor, span, index = struct.unpack('<c1ddddddd', pool)
    window = index
    if span > 0 then window = math.max(index, math.floor((now - anchor) / span)) end
  end
end
local record = struct.pack('<c1dddddd', 'H', cost, 0, output, now + life, window, now) .. ARGV[2]
if answer == 'F' then release(KEYS[1], record, now, -cost, 0) end
redis.call('SET', KEYS[1], record)
return answer
