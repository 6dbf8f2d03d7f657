-- Takes the cost from every bucket or from none.
-- KEYS: the hold's key if ARGV[6] is not 0, then a key for each bucket.
-- ARGV: 1 now or '', 2 cost in requests, 3 input tokens, 4 output tokens (0 asks for
-- fill), 5 fill, 6 microseconds the hold lives (0: none is recorded), 7 the record's tail,
-- then for each bucket: kind (t tokens, r requests; T and R count and never refuse),
-- capacity, rate, window.
-- Answer: "outcome now held output", then ";settled held at" for each bucket as it is
-- after the call. Outcomes: A admitted, R refused, D held before by the same request.
local now = clock(ARGV[1])
local requests, input, output = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local fill, life = tonumber(ARGV[5]), tonumber(ARGV[6])
local first = life > 0 and 1 or 0
local values = redis.call('MGET', unpack(KEYS))
local n = #KEYS - first
local settled, held, at, rate, window = {}, {}, {}, {}, {}
local filling, granted, fits = output == 0 and fill > 0, output, true
if filling then granted = fill end

for i = 1, n do
  local a = 4 + 4 * i
  local kind, capacity = ARGV[a], tonumber(ARGV[a + 1])
  local r, w = tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3])
  local s, h, t = drain(values[first + i], r, w, now)
  settled[i], held[i], at[i], rate[i], window[i] = s, h, t, r, w
  if kind == 'r' then
    fits = fits and s + h + requests <= capacity
  elseif kind == 't' and not filling then
    fits = fits and s + h + (input + output) <= capacity
  elseif kind == 't' then
    local left = math.floor(capacity - s - h - input)
    local least = math.min(16, fill)
    if left < least then
      fits = false
    else
      least = math.min(fill, math.max(16, math.floor(capacity / 8)))
      fits = fits and (left >= least or h <= 0)
      granted = math.min(granted, left, math.max(least, math.floor(left / 4)))
    end
  end
end

local reply = {}
local function answer(outcome, h, o)
  reply[1] = string.format('%s %.0f %.0f %.0f', outcome, now, h, o)
  for i = 1, n do
    reply[i + 1] = format(settled[i], held[i], at[i])
  end
  return table.concat(reply, ';')
end

if first == 1 and values[1] then
  local _, h, _, o = string.match(values[1], '^(%a) (%d+) (%d+) (%d+)')
  return answer('D', tonumber(h), tonumber(o))
end
if not fits then
  return answer('R', 0, 0)
end
local cost = input + granted
for i = 1, n do
  local kind = ARGV[4 + 4 * i]
  if kind == 't' or kind == 'T' then
    held[i] = held[i] + cost
  else
    settled[i] = settled[i] + requests
  end
  reply[i + 1] = format(settled[i], held[i], at[i])
  store(KEYS[first + i], reply[i + 1], settled[i], held[i], rate[i], window[i], now)
end
if first == 1 then
  redis.call('SET', KEYS[1], string.format('H %.0f 0 %.0f %.0f ', cost, granted, now + life) .. ARGV[7])
end
reply[1] = string.format('A %.0f %.0f %.0f', now, cost, granted)
return table.concat(reply, ';')
