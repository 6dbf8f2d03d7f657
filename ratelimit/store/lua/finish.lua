-- Remembers that an expired hold's event is published.
-- KEYS[1]: the hold. ARGV: 1 one double, milliseconds to remember it. Answer: 'X' if it
-- was waiting for that, else ''.
local record = redis.call('GET', KEYS[1])
if not record then return '' end
local state, held, charged, output, _, window = struct.unpack('<c1ddddd', record)
if state ~= 'X' then return '' end
redis.call('SET', KEYS[1], struct.pack('<c1ddddd', 'E', held, charged, output, 0, window), 'PX', (struct.unpack('<d', ARGV[1])))
return 'X'
