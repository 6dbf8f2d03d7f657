-- Settles a hold that nobody settled in time, by policy. The record keeps its facts
-- until finish.lua says that its event is published, and what it takes to correct the charge
-- for longer: its time is from now on when it was charged.
-- KEYS[1]: the hold. ARGV: 1 two doubles: now (0: the server's clock), and 1 to charge
-- what is held or 0 to release it. Answer: the record, if its event is still to be
-- published, else ''.
local now, policy = struct.unpack('<dd', ARGV[1])
local record = redis.call('GET', KEYS[1])
if not record then return '' end
local state, held, _, output, expires, pos = struct.unpack('<c1dddd', record)
if state == 'X' then return record end
if state ~= 'H' then return '' end
now = clock(now)
if expires > now then return '' end
local charged = policy * held
release(KEYS[1], record, now, held, charged)
record = struct.pack('<c1dddd', 'X', held, charged, output, now) .. string.sub(record, pos)
redis.call('SET', KEYS[1], record)
return record
