-- Settles a hold that nobody settled in time, by policy. The record keeps its facts
-- until finish.lua says that its event is published.
-- KEYS[1]: the hold. ARGV: 1 now or '', 2 'charge' or 'release'.
-- Answer: the record, if its event is still to be published, else ''.
local record = redis.call('GET', KEYS[1])
if not record then return '' end
local state, held, output, expires, pos = string.match(record, '^(%a) (%d+) %d+ (%d+) (%d+)()')
if state == 'X' then return record end
if state ~= 'H' then return '' end
local now = clock(ARGV[1])
if tonumber(expires) > now then return '' end
local charged = ARGV[2] == 'charge' and held or '0'
release(record, now, tonumber(held), tonumber(charged))
record = 'X ' .. held .. ' ' .. charged .. ' ' .. output .. ' ' .. expires .. string.sub(record, pos)
redis.call('SET', KEYS[1], record)
return record
