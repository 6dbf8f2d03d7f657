-- Lets a hold live on that is not settled.
-- KEYS[1]: the hold. ARGV: 1 three doubles: now (0: the server's clock), microseconds the
-- hold lives from now, and 1 if it was taken now, too. Answer: H renewed, U there is no such hold or
-- it is settled.
local now, life, anew = struct.unpack('<ddd', ARGV[1])
local record = redis.call('GET', KEYS[1])
if not record or string.sub(record, 1, 1) ~= 'H' then return 'U' end
now = clock(now)
local rest = string.sub(record, 34)
if anew > 0 then rest = string.sub(record, 34, 41) .. struct.pack('<d', now) .. string.sub(record, 50) end
redis.call('SET', KEYS[1], string.sub(record, 1, 25) .. struct.pack('<d', now + life) .. rest)
return 'H'
