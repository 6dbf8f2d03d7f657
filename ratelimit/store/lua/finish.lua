-- Remembers that an expired hold's event is published.
-- KEYS[1]: the hold. ARGV: 1 milliseconds to remember it. Answer: 1 if it was waiting, else 0.
local record = redis.call('GET', KEYS[1])
if not record then return 0 end
local state, held, charged, output = string.match(record, '^(%a) (%d+) (%d+) (%d+)')
if state ~= 'X' then return 0 end
redis.call('SET', KEYS[1], 'E ' .. held .. ' ' .. charged .. ' ' .. output, 'PX', ARGV[1])
return 1
