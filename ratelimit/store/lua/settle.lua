-- Replaces a hold by what was used, once; and if the sweeper charged it before, the sweeper's charge,
-- once. KEYS[1]: the hold. ARGV: 1 four doubles: now (0: the server's clock), tokens charged,
-- milliseconds to remember it, 0 to forget it at once, and those to remember a correction. Answer: a
-- status and four doubles: held, charged, the pool's window that was drawn on, -1 if none was, and
-- when the hold was taken, 0 if that is not known any more.
-- S settled now, D settled before, L the sweeper was before, U no such hold.
local now, charge, kept, corrected = struct.unpack('<dddd', ARGV[1])
local record = redis.call('GET', KEYS[1])
if not record then return struct.pack('<c1dddd', 'U', 0, 0, -1, 0) end
local state, held, charged, output, since, window, tail = struct.unpack('<c1ddddd', record)
if state == 'S' then return struct.pack('<c1dddd', 'D', held, charged, window, 0) end
if state ~= 'H' then
  local taken = 0
  if #record >= tail then taken = struct.unpack('<d', record, tail) end
  if state == 'C' or taken == 0 or kept == 0 then return struct.pack('<c1dddd', 'L', held, charged, window, taken) end
  correct(KEYS[1], record, clock(now), charged, charge, since, state == 'E')
  redis.call('SET', KEYS[1], struct.pack('<c1ddddd', 'C', held, charge, output, since, window) .. string.sub(record, tail), 'PX', corrected)
  return struct.pack('<c1dddd', 'L', held, charge, window, taken)
end
release(KEYS[1], record, clock(now), held, charge)
if kept == 0 then
  redis.call('DEL', KEYS[1])
  return struct.pack('<c1dddd', 'S', held, charge, window, 0)
end
redis.call('SET', KEYS[1], struct.pack('<c1ddddd', 'S', held, charge, output, 0, window), 'PX', kept)
return struct.pack('<c1dddd', 'S', held, charge, window, 0)
