-- JSON for the scripts of the request path: where a value ends, checked as strictly as RFC 8259
-- has it, but for what is inside strings. Strings are skipped with a plain find (memchr), and
-- the rest is a byte loop that LuaJIT compiles. Go puts this text before the guard's.

local byte, find, lower, sub = string.byte, string.find, string.lower, string.sub

local QUOTE, COMMA, MINUS, DOT, COLON, BACKSLASH = 34, 44, 45, 46, 58, 92
local OPEN, CLOSE, LIST, LIST_END = 123, 125, 91, 93
local MAX_DEPTH = 200

-- broken is where the text last stopped being JSON, for the refusal to say. A script runs
-- to the end of a parse without a break, so one place for it is enough.
local broken = 1

-- stop notes that there is no JSON from i on.
local function stop(i)
  broken = i
  return nil
end

-- space: the position and value of the first byte from i on that is not JSON white space.
local function space(s, i)
  local c = byte(s, i)
  while c == 32 or c == 10 or c == 13 or c == 9 do
    i = i + 1
    c = byte(s, i)
  end
  return i, c
end

-- string_end: i is the opening quote; the closing one's position.
local function string_end(s, i)
  while true do
    i = find(s, '"', i + 1, true)
    if not i then return stop(#s + 1) end
    local b = i - 1
    while byte(s, b) == BACKSLASH do b = b - 1 end
    if (i - b) % 2 == 1 then return i end
  end
end

-- digits: the position after a run of digits that begins at i; nil without one.
local function digits(s, i)
  local c = byte(s, i)
  if not c or c < 48 or c > 57 then return nil end
  repeat
    i = i + 1
    c = byte(s, i)
  until not c or c < 48 or c > 57
  return i
end

-- number_end: i is a number's first byte; its last byte's position, nil if it is none.
local function number_end(s, i)
  if byte(s, i) == MINUS then i = i + 1 end
  if byte(s, i) == 48 then i = i + 1 else i = digits(s, i) end
  if i and byte(s, i) == DOT then i = digits(s, i + 1) end
  if not i then return nil end
  local c = byte(s, i)
  if c == 101 or c == 69 then
    c = byte(s, i + 1)
    i = digits(s, (c == 43 or c == MINUS) and i + 2 or i + 1)
    if not i then return nil end
  end
  return i - 1
end

-- scalar_end: i is the first byte of a string, number or literal; its last byte's position.
local function scalar_end(s, i, c)
  if c == QUOTE then return string_end(s, i) end
  if c == MINUS or c and c >= 48 and c <= 57 then return number_end(s, i) or stop(i) end
  if sub(s, i, i + 3) == "true" or sub(s, i, i + 3) == "null" then return i + 3 end
  if sub(s, i, i + 4) == "false" then return i + 4 end
  return stop(i)
end

-- name_end: i is the first byte c of a member's name; its closing quote, and the position and
-- first byte of its value.
local function name_end(s, i, c)
  if c ~= QUOTE then return stop(i) end
  local e = string_end(s, i)
  if not e then return nil end
  i, c = space(s, e + 1)
  if c ~= COLON then return stop(i) end
  i, c = space(s, i + 1)
  return e, i, c
end

-- value_end: s[i] is a value's first byte c; its last byte's position, nil if it is malformed.
local function value_end(s, i, c)
  if c ~= OPEN and c ~= LIST then return scalar_end(s, i, c) end
  local ends, depth, name = {}, 0, nil -- the closing byte of each open container
  while true do
    local inside = false
    if c == OPEN or c == LIST then
      local close = c == OPEN and CLOSE or LIST_END
      i, c = space(s, i + 1)
      if c ~= close then
        depth = depth + 1
        if depth > MAX_DEPTH then return stop(i) end
        ends[depth] = close
        inside = true
        if close == CLOSE then
          name, i, c = name_end(s, i, c)
          if not name then return nil end
        end
      end
    else
      i = scalar_end(s, i, c)
      if not i then return nil end
    end
    while not inside do -- s[i] is the last byte of a value
      if depth == 0 then return i end
      i, c = space(s, i + 1)
      if c == COMMA then
        i, c = space(s, i + 1)
        if ends[depth] == CLOSE then
          name, i, c = name_end(s, i, c)
          if not name then return nil end
        end
        inside = true
      elseif c == ends[depth] then
        depth = depth - 1
      else
        return stop(i)
      end
    end
  end
end

-- whereabouts tells people where the text stopped being JSON.
local function whereabouts(s)
  if broken > #s then return "it ends in the middle of a value, after " .. #s .. " bytes" end
  local word = string.match(sub(s, broken, broken + 15), "^[%w+.-]+")
  local c = byte(s, broken)
  if not word then word = c > 32 and c < 127 and string.char(c) or string.format("byte 0x%02x", c) end
  return "unexpected " .. word .. " at byte " .. broken
end
