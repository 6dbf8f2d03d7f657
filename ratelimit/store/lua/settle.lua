-- Replaces a hold by what was used, once.
-- KEYS[1]: the hold. ARGV: 1 three doubles: now (0: the server's clock), tokens charged,
-- milliseconds to remember it. Answer: a status and two doubles, held and charged.
-- S settled now, D settled before, L the sweeper was before, U no such hold.
local now, charge, kept = struct.unpack('<ddd', ARGV[1])
local record = redis.call('GET', KEYS[1])
if not record then return struct.pack('<c1dd', 'U', 0, 0) end
local state, held, charged, output = struct.unpack('<c1ddd', record)
if state ~= 'H' then
  return struct.pack('<c1dd', state == 'S' and 'D' or 'L', held, charged)
end
release(record, clock(now), held, charge)
redis.call('SET', KEYS[1], struct.pack('<c1dddd', 'S', held, charge, output, 0), 'PX', kept)
return struct.pack('<c1dd', 'S', held, charge)
