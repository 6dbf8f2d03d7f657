-- Replaces a hold by what was used, once; and if the sweeper charged it before, the sweeper's charge,
-- once. KEYS: the hold, and the memory of settled ones. ARGV: 1 four doubles: now (0: the server's
-- clock), tokens charged, milliseconds to remember it, 0 to forget it at once, and those to remember a
-- correction; then the hold's hash. Answer: a status and four doubles: held, charged, 0 or more if a
-- pool was drawn on, -1 if none was, and when the hold was taken, 0 if that is not known any more; of S
-- instead the sum of 1 if a bucket of the hold was not there and 2 if the call surely holds nothing in
-- shared buckets. S settled now, D settled before, L the sweeper was before, U no such hold.
local now, charge, kept, corrected, print = struct.unpack('<ddddc10', ARGV[1])

-- answer is the script's.
local function answer(status, held, charged, window, taken)
  return struct.pack('<c1dddd', status, held, charged, window, taken or 0)
end

-- remember adds the call to the memory, and takes out those that need not be known any more.
local function remember(seconds, held, output, drawn)
  local memory = redis.call('GET', KEYS[2]) or ''
  local from, oldest = 1, seconds - math.ceil(kept / 1000)
  while from <= #memory and struct.unpack('<I4', memory, from + 10) < oldest do from = from + 33 end
  local most = 281474976710655
  redis.call('SET', KEYS[2], string.sub(memory, from) .. struct.pack('<c10I4I6I6I6B', print, seconds, math.min(held, most),
    math.min(charge, most), math.min(output, most), drawn), 'PX', kept)
end

local record = redis.call('GET', KEYS[1])
if not record then
  local memory = redis.call('GET', KEYS[2])
  local at = memory and remembered(memory, print)
  if not at then return answer('U', 0, 0, -1) end
  local held, charged, _, drawn = recall(memory, at)
  return answer('D', held, charged, drawn - 1)
end
local state, held, charged, output, since, window, tail = struct.unpack('<c1ddddd', record)
if state == 'S' then return answer('D', held, charged, window) end -- from before there was the memory
now = clock(now)
if state ~= 'H' then
  local taken = 0
  if #record >= tail then taken = struct.unpack('<d', record, tail) end
  if state == 'C' or taken == 0 or kept == 0 then return answer('L', held, charged, window, taken) end
  correct(KEYS[1], record, now, charged, charge, since, state == 'E')
  redis.call('SET', KEYS[1], struct.pack('<c1ddddd', 'C', held, charge, output, since, window) .. string.sub(record, tail), 'PX', corrected)
  return answer('L', held, charge, window, taken)
end
local lost, alone = release(KEYS[1], record, now, held, charge)
redis.call('DEL', KEYS[1])
if kept > 0 then remember(math.floor(now / 1000000), held, output, window >= 0 and 1 or 0) end
return answer('S', held, charge, window, (lost and 1 or 0) + (alone and 2 or 0))
