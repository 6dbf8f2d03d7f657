-- Lets a hold live on that is not settled.
-- KEYS[1]: the hold. ARGV: 1 two doubles: now (0: the server's clock), microseconds the
-- hold lives from now. Answer: H renewed, U there is no such hold or it is settled.
local now, life = struct.unpack('<dd', ARGV[1])
local record = redis.call('GET', KEYS[1])
if not record or string.sub(record, 1, 1) ~= 'H' then return 'U' end
redis.call('SET', KEYS[1], string.sub(record, 1, 25) .. struct.pack('<d', clock(now) + life) .. string.sub(record, 34))
return 'H'
