-- The rules of tally.go, for hashes in Redis. Times are milliseconds.
-- KEYS: the subjects. ARGV: what to do, now (0: Redis' clock), longest, window, first,
-- life of pending attempts, life of tickets; then most and who of each subject.
-- Fields: n failures, p pending, pu end of pending, u end of the wait, h hf hs he the ticket's
-- holder, their failures, start and end, f:WHO failures of one who tries.
local what, now = ARGV[1], tonumber(ARGV[2])
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end
local longest, window, first = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local pending_life, ticket_life = tonumber(ARGV[6]), tonumber(ARGV[7])

local function number(key, field) return tonumber(redis.call('HGET', key, field) or '0') end
local function most(i) return tonumber(ARGV[6 + 2 * i]) end
local function who(i) return ARGV[7 + 2 * i] end
local function keep(key, life)
  if redis.call('PTTL', key) < life then redis.call('PEXPIRE', key, life) end
end
local function settle(key)
  if number(key, 'p') > 0 then redis.call('HINCRBY', key, 'p', -1) end
end

if what == 'release' then
  for _, key in ipairs(KEYS) do settle(key) end
  return 0
end

if what == 'forget' then
  for _, key in ipairs(KEYS) do
    settle(key)
    local p, pu = number(key, 'p'), number(key, 'pu')
    redis.call('DEL', key)
    if p > 0 and pu > now then
      redis.call('HSET', key, 'p', p, 'pu', pu)
      redis.call('PEXPIRE', key, pu - now)
    end
  end
  return 0
end

if what == 'fail' then
  for i, key in ipairs(KEYS) do
    settle(key)
    local over = redis.call('HINCRBY', key, 'n', 1) - most(i)
    redis.call('HINCRBY', key, 'f:' .. who(i), 1)
    if over >= 0 then
      redis.call('HSET', key, 'u', now + math.min(longest, first * 2 ^ math.min(over, 20)))
    end
    keep(key, window + longest)
  end
  return 0
end

-- take
local function judge(i, key)
  if number(key, 'pu') <= now then redis.call('HDEL', key, 'p') end
  local fresh = number(key, 'f:' .. who(i)) == 0
  local held = number(key, 'he') > now
  local u, p = number(key, 'u'), number(key, 'p')
  if held and redis.call('HGET', key, 'h') == who(i) then
    return math.max(0, number(key, 'hs') - now), false, fresh
  elseif u > now then
    return u - now, false, fresh
  elseif number(key, 'n') + p < most(i) then
    return 0, false, false
  elseif p > 0 then
    return 1, true, fresh
  elseif held then
    return number(key, 'he') - now, false, fresh
  end
  return 0, false, false
end

local wait, line, fresh = 0, false, false
for i, key in ipairs(KEYS) do
  local w, l, f = judge(i, key)
  if w == 0 then
    -- this one lets it through
  elseif wait == 0 or line and not l then
    wait, line, fresh = w, l, f
  elseif l == line then
    wait, fresh = math.max(wait, w), fresh and f
  end
end

for i, key in ipairs(KEYS) do
  if wait == 0 then
    if redis.call('HGET', key, 'h') == who(i) then redis.call('HDEL', key, 'h', 'hf', 'hs', 'he') end
    redis.call('HINCRBY', key, 'p', 1)
    redis.call('HSET', key, 'pu', now + pending_life)
    keep(key, pending_life)
  elseif not line then
    local mine = number(key, 'f:' .. who(i))
    local held = number(key, 'he') > now
    if not held or redis.call('HGET', key, 'h') ~= who(i) and mine < number(key, 'hf') then
      redis.call('HSET', key, 'h', who(i), 'hf', mine, 'hs', now + wait, 'he', now + wait + ticket_life)
      keep(key, wait + ticket_life)
    end
  end
end
return {wait, line and 1 or 0, fresh and 1 or 0}
