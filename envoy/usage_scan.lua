-- The usage reader: finds what a provider tells of its tokens while the answer passes, and
-- writes it into dynamic metadata at once, so that a client that leaves early is charged by
-- what was told until then.
--
-- It never holds a body: a chunk is read and goes on, and what is kept between two chunks
-- is bounded (the place in a JSON document, at most TEXT bytes of a name or a number).
-- Whether the answer is JSON or server-sent events (WHATWG HTML 9.2) is seen from its first
-- byte, not from its label. An event that cannot tell usage is skipped with plain finds
-- (memchr); everything else goes through one scanner that follows strings and nesting
-- exactly, so that text a model writes is never taken for usage.
--
-- One event is taken out of the answer: the one that tells the usage of a stream whose
-- caller did not ask for it (see splice.lua). Every other byte passes as it came.

local byte, concat, find, floor = string.byte, table.concat, string.find, math.floor
local format, lower, sub = string.format, string.lower, string.sub

local QUOTE, COMMA, COLON, BACKSLASH = 34, 44, 58, 92
local OPEN, CLOSE, LIST, LIST_END = 123, 125, 91, 93
local LF, CR, SPACE, TAB = 10, 13, 32, 9
local NEVER = math.huge -- beyond any position

local MAX_DEPTH = 8            -- of containers that are followed; usage lies at 6 at most
local MAX_TEXT = 128           -- bytes of a name, number or model that are kept
local MAX_TOKENS = 1e15        -- a larger count is not believed
local MAX_HELD = 16384         -- bytes of an event that may have to be taken out
local LONGEST_WORD = 17        -- of those that tell content, less one byte
local SPOKEN = 2               -- data lines at the beginning that are always scanned, for the model

-- Where usage is told: a tree of members' names. A leaf names what the value is. An array
-- stands for each of its elements. What is not named is skipped, however deep.
local ERROR, MODEL, HEAVY, KIND, SPEECH = "error", "model", "heavy", "kind", "speech"
local WRITTEN = { ephemeral_1h_input_tokens = "written_1h" } -- of what is told as written
local INPUT_DETAILS = { cached_tokens = "cached", cache_write_tokens = "wrote", audio_tokens = "audio_in" }
local OUTPUT_DETAILS = { reasoning_tokens = "reasoning", thinking_tokens = "reasoning", audio_tokens = "audio_out" }
local USAGE = {
  prompt_tokens = "in", completion_tokens = "out", total_tokens = "total", -- OpenAI chat, embeddings
  input_tokens = "in", output_tokens = "out", -- OpenAI Responses, Anthropic
  prompt_tokens_details = INPUT_DETAILS, input_tokens_details = INPUT_DETAILS,
  completion_tokens_details = OUTPUT_DETAILS, output_tokens_details = OUTPUT_DETAILS,
  cached_tokens = "cached", prompt_cache_hit_tokens = "cached", reasoning_tokens = "reasoning", -- Moonshot, DeepSeek, Perplexity
  cache_read_input_tokens = "read", cache_creation_input_tokens = "written", cache_creation = WRITTEN, -- Anthropic
  promptTokenCount = "in", candidatesTokenCount = "out", totalTokenCount = "total", -- Gemini
  thoughtsTokenCount = "thoughts", toolUsePromptTokenCount = "tools", cachedContentTokenCount = "cached",
  prompt_token_count = "in", candidates_token_count = "out", total_token_count = "total",
  thoughts_token_count = "thoughts", tool_use_prompt_token_count = "tools", cached_content_token_count = "cached",
}
local CHOICE = { usage = USAGE, logprobs = HEAVY, delta = { usage = USAGE }, message = { usage = USAGE } }
local ROOT = {
  usage = USAGE, usageMetadata = USAGE, usage_metadata = USAGE, model = MODEL, modelVersion = MODEL, error = ERROR,
  type = KIND, -- of an event of Responses and Messages: "error"
  choices = CHOICE, -- Moonshot tells it there
  candidates = { logprobsResult = HEAVY, content = SPEECH },
  x_groq = { usage = USAGE }, -- Groq
  message = { usage = USAGE, model = MODEL }, -- Anthropic's message_start
  response = { usage = USAGE, usageMetadata = USAGE, model = MODEL, modelVersion = MODEL, error = ERROR }, -- Responses; Code Assist
}
local COUNTS = { "in", "out", "total", "cached", "read", "written", "written_1h", "wrote", "reasoning", "thoughts", "tools", "audio_in", "audio_out" }

-- What the scanner is inside of, when a piece ends there.
local NAME, TEXT, SKIPPED, WORD = "name", "text", "skipped", "word"

-- What a model produces, by its kind: text, thoughts, arguments of a call, and, of any of them, what
-- is not in ASCII; the names that the report has for them. See usage_text.lua.
local SAID, THOUGHT, CALLED, WIDE = 1, 2, 3, 4
local PRODUCED = { "said", "thought", "called", "wide" }

local function reader(cuts)
  return {
    kind = nil, list = false, -- "json" or "sse", once the first byte is seen; whether it is a list of JSON
    bytes = 0, events = 0, after = 0, -- body bytes; data lines with content, and those since usage was last told
    head = 0, begun = 0, -- body bytes before the first line with content, and before the present line
    made = { 0, 0, 0, 0 }, -- bytes of what the model produced, by its kind
    told = {}, model = nil, whole = false, failed = false, heavy = false, -- what was found
    dirty = false, mark = 1, beyond = 1, -- to be written into the metadata: told something new, or events reached mark, or after beyond
    -- the scanner
    depth = 0, nodes = {}, lists = {}, skip = 0, node = nil, key = false, inside = nil, escaped = false, text = "",
    usage = false, -- the document has a usage object
    -- the lines of an event stream
    line = nil, lf = false, lines = 0, carry = "", now = false, rest = "", at = 1,
    content = false, delta = false, wordy = false, quiet = false, -- what tells that a line carries content
    -- the text within a line
    opened = nil, into = nil, nested = 0, quoted = false, turn = nil, left = "", -- where in it, and what is not read yet
    found = false, line_made = { 0, 0, 0, 0 }, -- as made, of the present line
    -- taking out
    cuts = cuts, may = false, cut = false, other = false, blank = false, lone = false,
  }
end

-- keep adds s[i..j] to the text that is being read; what is too long matches nothing.
local function keep(r, s, i, j)
  if #r.text + j - i + 1 > MAX_TEXT then
    r.text = "\0"
  else
    r.text = r.text .. sub(s, i, j)
  end
end

-- closing: the position of the quote that ends the string s[i..j] is inside of, or nil.
-- Across pieces only the parity of back-slashes is remembered.
local function closing(r, s, i, j)
  if r.escaped then
    r.escaped = false
    i = i + 1
  end
  local from = i
  while true do
    local q = find(s, '"', i, true)
    if not q or q > j then q = nil end
    local last = (q or j + 1) - 1
    local b = last
    while b >= from and byte(s, b) == BACKSLASH do b = b - 1 end
    local odd = (last - b) % 2 == 1
    if not q then
      r.escaped = odd
      return nil
    end
    if not odd then return q end
    i, from = q + 1, q + 1
  end
end

-- value takes in a scalar at a place that the tree names.
local function value(r, quoted)
  local node, text = r.node, r.text
  r.node = nil
  if node == MODEL then
    if quoted and not r.model and text ~= "" and not find(text, "[^ -~]") and not find(text, "\\", 1, true) then
      r.model = text
      r.dirty = true
    end
  elseif node == ERROR then
    if quoted and text ~= "" then r.failed, r.dirty = true, true end
  elseif node == KIND then
    if text == "error" then r.failed, r.dirty = true, true end
  elseif node ~= HEAVY and node ~= SPEECH and find(text, "^%d[%d.eE+-]*$") then -- a number, also one that is written as a string
    local n = tonumber(text)
    if n and n >= 1 and n <= MAX_TOKENS then -- zero and null say nothing
      n = floor(n)
      r.now = true
      if r.told[node] ~= n then
        r.told[node] = n
        r.dirty = true
      end
    end
  end
end

-- open: s has a container at a place with this node.
local function open(r, c, node)
  r.node = nil
  if r.depth == 0 then
    r.usage, r.cut, node = false, false, ROOT
  end
  if type(node) ~= "table" or r.depth == MAX_DEPTH then
    if node == ERROR then r.failed, r.dirty = true, true end
    if node == HEAVY then r.heavy = true end
    if node == SPEECH and r.lists[1] then r.content = true end
    r.skip = 1
    return
  end
  local depth = r.depth + 1
  r.depth, r.nodes[depth], r.lists[depth], r.key = depth, node, c == LIST, c == OPEN
  if c == OPEN then
    if node == USAGE then
      r.usage = true
    elseif node == CHOICE then
      r.may = false
    end
  end
end

-- credit takes in the text of a line, or forgets that of one that only repeats.
local function credit(r, content)
  if not r.found then return end
  r.found = false
  local made, line = r.made, r.line_made
  if content then -- no loop, for the compiler's sake
    made[SAID], made[THOUGHT] = made[SAID] + line[SAID], made[THOUGHT] + line[THOUGHT]
    made[CALLED], made[WIDE] = made[CALLED] + line[CALLED], made[WIDE] + line[WIDE]
  end
  line[SAID], line[THOUGHT], line[CALLED], line[WIDE] = 0, 0, 0, 0
end

-- count takes in the end of a data line, or of an element of a list of answers.
local function count(r, content)
  credit(r, content)
  if content then
    if r.events == 0 then r.head = r.begun end
    r.events, r.after = r.events + 1, r.after + 1
    if r.events >= r.mark then r.dirty, r.mark = true, r.events + floor(r.events / 4) + 1 end
    -- What was told covers no longer what passed, so that is told at once.
    if r.whole and r.after >= r.beyond then r.dirty, r.beyond = true, r.after + floor(r.after / 4) + 1 end
  end
  if r.now then r.after, r.now, r.dirty, r.beyond = 0, false, true, 1 end
end

local function close(r)
  if r.depth == 0 then
    r.may = false
    return
  end
  if r.nodes[r.depth] == USAGE and not r.lists[r.depth] then
    if not r.whole and next(r.told) then r.whole, r.dirty = true, true end
  end
  r.depth, r.node, r.key = r.depth - 1, nil, false
  if r.depth == 1 and r.lists[1] and r.kind == "json" then -- Gemini's streams may be a list
    count(r, r.content)
    r.content = false
  end
  if r.depth == 0 then
    if r.usage and r.may then r.cut = true end
    r.may = false
  end
end

-- step takes in one byte that is in no string and no skipped value; the next position.
local function step(r, s, i)
  local c = byte(s, i)
  if c == SPACE or c == LF or c == CR or c == TAB then return i + 1 end
  local depth = r.depth
  local list = r.lists[depth]
  if c == QUOTE then
    r.text, r.escaped = "", false
    if r.key then
      r.inside = NAME
    elseif type(r.node) == "string" then
      r.inside = TEXT
    else
      r.inside = SKIPPED
      if depth == 0 then r.may = false end
    end
  elseif c == OPEN or c == LIST then
    local node = r.node
    if depth > 0 and list then node = r.nodes[depth] end
    open(r, c, node)
  elseif c == CLOSE or c == LIST_END then
    close(r)
  elseif depth == 0 then
    r.may = false
  elseif c == COMMA then
    r.node, r.key = nil, not list
  elseif c == COLON then
    r.key = false
  elseif type(r.node) == "string" then
    r.inside, r.text = WORD, ""
    return i
  end
  return i + 1
end

-- scan takes in s[i..j], a piece of JSON that may begin and end anywhere.
local function scan(r, s, i, j)
  while i <= j do
    local inside = r.inside
    if inside == WORD then
      local e = find(s, "[^%w.+-]", i)
      if not e or e > j then return keep(r, s, i, j) end
      keep(r, s, i, e - 1)
      r.inside = nil
      value(r, false)
      i = e
    elseif inside then
      local q = closing(r, s, i, j)
      if inside ~= SKIPPED then keep(r, s, i, (q or j + 1) - 1) end
      if not q then return end
      r.inside = nil
      if inside == NAME then
        r.node = r.nodes[r.depth][r.text]
      elseif inside == TEXT then
        value(r, true)
      end
      i = q + 1
    elseif r.skip > 0 then
      local e = find(s, '["{}%[%]]', i)
      if not e or e > j then return end
      local c = byte(s, e)
      if c == QUOTE then
        r.inside, r.escaped = SKIPPED, false
      elseif c == OPEN or c == LIST then
        r.skip = r.skip + 1
      else
        r.skip = r.skip - 1
      end
      i = e + 1
    else
      i = step(r, s, i)
    end
  end
end

-- abandon gives up a document that is broken.
local function abandon(r)
  r.depth, r.skip, r.node, r.key, r.inside, r.may = 0, 0, nil, false, nil, false
end
