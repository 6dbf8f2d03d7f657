-- Remembers that an expired hold's event is published. The record stays whole, since a
-- settlement may still come.
-- KEYS[1]: the hold. ARGV: 1 one double, milliseconds to remember it. Answer: 'X' if it
-- was waiting for that, else ''.
local record = redis.call('GET', KEYS[1])
if not record then return '' end
if string.sub(record, 1, 1) ~= 'X' then return '' end
redis.call('SET', KEYS[1], 'E' .. string.sub(record, 2), 'PX', (struct.unpack('<d', ARGV[1])))
return 'X'
