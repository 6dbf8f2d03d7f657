-- Replaces a hold by what was used, once.
-- KEYS[1]: the hold. ARGV: 1 now or '', 2 tokens charged, 3 milliseconds to remember it.
-- Answer: "status held charged". S settled now, D settled before, L the sweeper was
-- before, U no such hold.
local record = redis.call('GET', KEYS[1])
if not record then return 'U 0 0' end
local state, held, charged, output = string.match(record, '^(%a) (%d+) (%d+) (%d+)')
if state == 'S' then return 'D ' .. held .. ' ' .. charged end
if state ~= 'H' then return 'L ' .. held .. ' ' .. charged end
release(record, clock(ARGV[1]), tonumber(held), tonumber(ARGV[2]))
redis.call('SET', KEYS[1], 'S ' .. held .. ' ' .. ARGV[2] .. ' ' .. output, 'PX', ARGV[3])
return 'S ' .. held .. ' ' .. ARGV[2]
