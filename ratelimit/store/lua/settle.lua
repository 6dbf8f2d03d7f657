-- Replaces a hold by what was used, once.
-- KEYS[1]: the hold. ARGV: 1 three doubles: now (0: the server's clock), tokens charged,
-- milliseconds to remember it, 0 to forget it at once. Answer: a status and three doubles: held, charged, and the
-- pool's window that was drawn on, -1 if none was.
-- S settled now, D settled before, L the sweeper was before, U no such hold.
local now, charge, kept = struct.unpack('<ddd', ARGV[1])
local record = redis.call('GET', KEYS[1])
if not record then return struct.pack('<c1ddd', 'U', 0, 0, -1) end
local state, held, charged, output, _, window = struct.unpack('<c1ddddd', record)
if state ~= 'H' then
  return struct.pack('<c1ddd', state == 'S' and 'D' or 'L', held, charged, window)
end
release(KEYS[1], record, clock(now), held, charge)
if kept == 0 then
  redis.call('DEL', KEYS[1])
  return struct.pack('<c1ddd', 'S', held, charge, window)
end
redis.call('SET', KEYS[1], struct.pack('<c1ddddd', 'S', held, charge, output, 0, window), 'PX', kept)
return struct.pack('<c1ddd', 'S', held, charge, window)
