-- What a model produced, in bytes: the text of an answer's pieces as it reads without JSON's escapes.
-- The lines of a stream are mostly envelope, whose length says nothing; what a token is charged by
-- when a stream is cut is this text, whatever it came in.
--
-- No document is parsed for it: the places where a member's value begins are found by their colon, in
-- a line that carries content, and the names decide. Quotes within a string are escaped in JSON, so
-- nothing that a model writes looks like a member. A value may go over any number of chunks.

local ZERO, EIGHT, BIG_D, SMALL_D, SMALL_U = 48, 56, 68, 100, 117
local HIGH = 128               -- the least byte that is not ASCII
local LONGEST_NAME = 24        -- bytes of '"reasoning_content": ' at least
local LONGEST_TYPE = 72        -- of '"type": "response.code_interpreter_call_code.delta"' at least

-- A member with one of these names opens what was produced: none before it counts, nor what stands
-- before the first delta where there is one.
local OPENS = { text = true, parts = true }
local MADE = {
  content = SAID, text = SAID, refusal = SAID, delta = SAID,
  thinking = THOUGHT, reasoning = THOUGHT, reasoning_content = THOUGHT,
  arguments = CALLED, partial_json = CALLED, input = CALLED, args = CALLED, code = CALLED,
}
-- What the delta of an event of Responses is, where it is no text; false: no text at all.
local TURNS = {
  ["response.reasoning_text.delta"] = THOUGHT, ["response.reasoning_summary_text.delta"] = THOUGHT,
  ["response.function_call_arguments.delta"] = CALLED, ["response.custom_tool_call_input.delta"] = CALLED,
  ["response.mcp_call_arguments.delta"] = CALLED, ["response.code_interpreter_call_code.delta"] = CALLED,
  ["response.audio.delta"] = false, ["response.output_audio.delta"] = false,
}

-- ahead: the next place from i on where s has what; found once for many lines of a chunk.
local function ahead(places, s, what, i)
  local at = places[what]
  if not at or at < i then
    at = find(s, what, i, true) or NEVER
    places[what] = at
  end
  return at
end

-- escape is the escape that begins at s[b]: the bytes of UTF-8 that it stands for, those it takes, and
-- whether it is outside ASCII; nil when it goes on behind s[j]. Half a surrogate pair stands for two.
local function escape(s, b, j)
  if b >= j then return nil end
  if byte(s, b + 1) ~= SMALL_U then return 1, 2, false end
  if b + 5 > j then return nil end
  local first, second, third = byte(s, b + 2, b + 4)
  if first == ZERO and second < EIGHT then
    if second == ZERO and third < EIGHT then return 1, 6, false end
    return 2, 6, true
  end
  if (first == BIG_D or first == SMALL_D) and second >= EIGHT then return 2, 6, true end
  return 3, 6, true
end

-- add notes n bytes of the text of a member.
local function add(r, kind, n, wide)
  if n == 0 then return end
  if wide then kind = WIDE end
  r.line_made[kind] = r.line_made[kind] + n
  r.found = true
end

-- text reads on within a string whose text counts; the position behind its quote, nil: s[j] is within.
-- Whether it is ASCII is seen from the byte in the middle of each run without escapes.
local function text(r, places, s, i, j)
  local q = find(s, '"', i, true)
  if q and q <= j and ahead(places, s, "\\", i) > q then -- all of it, with no escapes
    if q > i then add(r, r.into, q - i, byte(s, floor((i + q) / 2)) >= HIGH) end
    r.into = nil
    return q + 1
  end
  local n, wide, q = 0, false, 0
  while true do
    if q < i then
      q = find(s, '"', i, true) or j + 1
      if q > j then q = j + 1 end
    end
    local e = ahead(places, s, "\\", i)
    if e > q then e = q end
    if e > i then
      n = n + e - i
      if byte(s, floor((i + e) / 2)) >= HIGH then wide = true end
    end
    i = e
    if e == q then break end
    local size, length, high = escape(s, e, j)
    if not size then break end
    n, i = n + size, e + length
    if high then wide = true end
  end
  add(r, r.into, n, wide)
  if i <= j and i == q then
    r.into = nil
    return q + 1
  end
  r.left = sub(s, i, j)
  return nil
end

-- object reads on within the arguments of a call that are an object, as Gemini has them: they are the
-- text that the model wrote, as they are. It returns as text does.
local function object(r, s, i, j)
  local from = i
  while true do
    local e = find(s, '["\\{}]', i)
    if not e or e > j then
      add(r, CALLED, j - from + 1, false)
      return nil
    end
    local c = byte(s, e)
    i = e + 1
    if c == BACKSLASH then
      if e == j then
        add(r, CALLED, e - from, false)
        r.left = "\\"
        return nil
      end
      i = e + 2
    elseif c == QUOTE then
      r.quoted = not r.quoted
    elseif not r.quoted then
      r.nested = r.nested + (c == OPEN and 1 or -1)
      if r.nested == 0 then
        add(r, CALLED, e - from, false)
        return i
      end
    end
  end
end

-- name is the member's name whose closing quote is s[q]; it begins at s[i] or behind it.
local function name(s, i, q)
  local b = q - 1
  local least = math.max(i, q - LONGEST_NAME)
  while b >= least and byte(s, b) ~= QUOTE do b = b - 1 end
  return sub(s, b + 1, q - 1)
end

-- kind_of is what the event is of whose type is the string behind the colon s[c], from s[v] on. It
-- returns as member does.
local function kind_of(r, s, c, v, j)
  local q = find(s, '"', v + 1, true)
  if q and q <= j and q - c < LONGEST_TYPE then
    r.turn = TURNS[sub(s, v + 1, q - 1)]
    return q + 1
  end
  if j - c >= LONGEST_TYPE then return v + 1 end
  r.left = sub(s, c - 6, j)
  return nil
end

-- member looks at the member of s[i..j] whose colon is s[c] and whose value begins at s[v], with a
-- quote or a bracket. It returns where to read on, nil: not before more has come.
local function member(r, s, i, c, v, j)
  local named, first = name(s, i, c - 1), byte(s, v)
  if named == "type" then
    if first ~= QUOTE then return v end
    return kind_of(r, s, c, v, j)
  end
  local kind = MADE[named]
  if named == "delta" then
    if r.opened ~= "delta" then credit(r, false) end
    r.opened = "delta"
    if first ~= QUOTE then
      r.turn = nil
    elseif r.turn ~= nil then
      kind = r.turn
    end
  elseif OPENS[named] then
    r.opened = r.opened or named
  end
  if kind == nil or not r.opened then return v end
  if first == QUOTE then
    if kind then r.into = kind end
    return v + 1
  end
  if first == OPEN and (named == "args" or named == "input") then r.nested, r.quoted = 1, false end
  return v + 1
end

-- produced takes in s[i..j], a piece of a line, or of a list of answers.
local function produced(r, places, s, i, j)
  while i and i <= j do
    if r.into then
      i = text(r, places, s, i, j)
    elseif r.nested > 0 then
      i = object(r, s, i, j)
    else
      local c = find(s, ":", i, true)
      local v = c and c + 1
      if c and byte(s, v) == SPACE then v = v + 1 end
      if not c or v > j then -- a name may end in the next piece, or its value begin there
        if r.line == nil and not r.list then return end
        r.left = sub(s, math.max(i, (c and c <= j and c or j) - LONGEST_NAME), j)
        return
      end
      local first = byte(s, v)
      if (first == QUOTE or first == OPEN or first == LIST) and byte(s, c - 1) == QUOTE then
        i = member(r, s, i, c, v, j)
      else
        i = v
      end
    end
  end
end

-- produced_on is produced with what the piece before left.
local function produced_on(r, places, s, i, j)
  if r.left == "" then return produced(r, places, s, i, j) end
  local piece = r.left .. sub(s, i, j)
  r.left = ""
  produced(r, {}, piece, 1, #piece)
end

-- close_text forgets the place within a line that came to its end.
local function close_text(r)
  r.opened, r.into, r.nested, r.turn, r.left = nil, nil, 0, nil, ""
end

-- words notes what of s[i..j], a piece of a data line, tells that the line carries content.
local function words(r, places, s, i, j)
  r.delta = ahead(places, s, '"delta"', i) < j
  if r.delta then return end
  r.wordy = r.wordy or ahead(places, s, '"text"', i) < j or ahead(places, s, '"parts"', i) < j
  -- Responses and Messages also tell where a text begins and ends, and repeat it.
  r.quiet = r.quiet or ahead(places, s, '"type":"response.', i) < j or ahead(places, s, '"type": "response.', i) < j
    or ahead(places, s, '"content_block":', i) < j
end

-- spoken says that the data line carries content: one token at least; and forgets the line.
local function spoken(r)
  local content = r.delta or r.wordy and not r.quiet
  r.delta, r.wordy, r.quiet = false, false, false
  return content
end

-- end_line takes in the end of a line whose bytes are scanned.
local function end_line(r)
  if r.line == "data" then
    if r.inside == WORD then scan(r, "\n", 1, 1) end
    if r.inside then abandon(r) end -- a string does not go over a line
    count(r, spoken(r))
    close_text(r)
    r.lines, r.carry = r.lines + 1, ""
  end
  r.line = nil
end

-- silent says that the data line s[i..e-1] cannot tell usage: it has the word nowhere but in
-- "usage":null, as every chunk does of a stream that was asked for it. Within a string the quotes
-- would be escaped.
local function silent(places, s, i, e)
  local at = ahead(places, s, "usage", i)
  while at < e do
    if byte(s, at - 1) ~= QUOTE then return false end
    local after
    if sub(s, at, at + 10) == 'usage":null' then
      after = byte(s, at + 11)
    elseif sub(s, at, at + 11) == 'usage": null' then
      after = byte(s, at + 12)
    end
    if after ~= COMMA and after ~= CLOSE then return false end
    at = ahead(places, s, "usage", at + 5)
  end
  return true
end

-- plain says that the data line s[i..e-1] can be skipped: nothing is open, it cannot tell
-- usage or an error, and its event ends with it.
local function plain(r, places, s, i, e)
  if r.depth > 0 or r.skip > 0 or r.inside or r.lines < SPOKEN then return false end
  if not silent(places, s, i, e) or ahead(places, s, 'rror"', i) < e then return false end
  local x = e + 1
  if byte(s, e) == CR and byte(s, x) == LF then x = x + 1 end
  local c = byte(s, x)
  return c == LF or c == CR
end

-- data takes in s[i..j], a piece of a data line.
local function data(r, places, s, i, j)
  scan(r, s, i, j)
  produced_on(r, places, s, i, j)
  if r.delta then return end
  if r.carry ~= "" then
    local piece = r.carry .. sub(s, i, j)
    words(r, {}, piece, 1, #piece)
    r.carry = sub(piece, -LONGEST_WORD)
  else
    words(r, places, s, i, j)
    r.carry = sub(s, math.max(i, j - LONGEST_WORD + 1), j)
  end
end

-- skip takes in the plain data line s[i..e-1]. It begins within the delta where that is an object; a text
-- is one of Responses, whose type, before it, tells of what.
local function skip(r, places, s, i, e)
  words(r, places, s, i, e)
  local delta = r.delta and places['"delta"']
  local content = spoken(r)
  if content then
    if delta and byte(s, delta + 7) == COLON then
      local v = delta + 8
      if byte(s, v) == SPACE then v = v + 1 end
      if byte(s, v) == OPEN then i, r.opened = v + 1, "delta" end
    end
    produced(r, places, s, i, e - 1)
    close_text(r)
  end
  count(r, content)
end
