-- Replaces a pool or a bucket by what it is when only holds that there are count as held, if it is still
-- as it was when they were counted: every hold that comes or ends changes it.
-- KEYS[1]: the pool or bucket. ARGV: 1 as it was, 2 as it is to be, 3 milliseconds to keep it, 0: while
-- anything is held. Answer: 1 if it was replaced, else 0.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return '0' end
if ARGV[3] == '0' then
  redis.call('SET', KEYS[1], ARGV[2])
else
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
return '1'
