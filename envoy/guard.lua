-- The guard: no LLM request passes whose body two JSON parsers could read differently.
--
-- json_to_metadata ran before and has parsed the body strictly, so what arrives here with a
-- model is valid JSON. Of duplicate members it took the last; a provider may take the first.
-- This scanner therefore reads the raw bytes: it refuses duplicate names (compared without
-- case, as some providers do), names with escapes, and values of decision-relevant members
-- that are not exactly what they must be. It then states the facts for ratelimit.
--
-- Strings are skipped with a plain find (memchr), so a long prompt costs next to nothing.

local byte, find, lower, sub = string.byte, string.find, string.lower, string.sub

local QUOTE, COMMA, BACKSLASH, OPEN, CLOSE, LIST = 34, 44, 92, 123, 125, 91
local TOKENS, COUNT, FLAG, OBJECT, TEXT = "tokens", "count", "flag", "object", "text"
local MAX_TOKENS = 2147483647
local MAX_CHOICES = 128

local OPENAI = {
  model = TEXT, max_tokens = TOKENS, max_completion_tokens = TOKENS, n = COUNT,
  stream = FLAG, stream_options = OBJECT,
}
local OPENAI_STREAM = { include_usage = FLAG }
local GEMINI = { generationconfig = OBJECT, generation_config = OBJECT }
local GEMINI_GENERATION = {
  maxoutputtokens = TOKENS, max_output_tokens = TOKENS, candidatecount = COUNT, candidate_count = COUNT,
}
-- Spellings of GEMINI and GEMINI_GENERATION whose case is not their own lower case.
local SPELLING = { generationconfig = "generationConfig", maxoutputtokens = "maxOutputTokens", candidatecount = "candidateCount" }

-- string_end: i is the opening quote; the closing one's position.
local function string_end(s, i)
  while true do
    i = find(s, '"', i + 1, true)
    if not i then return nil end
    local b = i - 1
    while byte(s, b) == BACKSLASH do b = b - 1 end
    if (i - b) % 2 == 1 then return i end
  end
end

-- value_end: i is a value's first byte; its last byte's position.
local function value_end(s, i)
  local c = byte(s, i)
  if c == QUOTE then return string_end(s, i) end
  if c ~= OPEN and c ~= LIST then
    local after = find(s, "[,%]}%s]", i)
    return after and after - 1
  end
  local depth = 1
  repeat
    i = find(s, '[]["{}]', i + 1)
    if not i then return nil end
    c = byte(s, i)
    if c == QUOTE then
      i = string_end(s, i)
      if not i then return nil end
    elseif c == OPEN or c == LIST then
      depth = depth + 1
    else
      depth = depth - 1
    end
  until depth == 0
  return i
end

local function check(kind, name, raw)
  if kind == TOKENS or kind == COUNT then
    local most = kind == TOKENS and MAX_TOKENS or MAX_CHOICES
    if not find(raw, "^[1-9]%d*$") or #raw > 10 or tonumber(raw) > most then
      return name .. " must be an integer from 1 to " .. most
    end
  elseif kind == FLAG then
    if raw ~= "true" and raw ~= "false" then return name .. " must be true or false" end
  elseif kind == OBJECT then
    if byte(raw) ~= OPEN then return name .. " must be an object" end
  elseif byte(raw) ~= QUOTE then
    return name .. " must be a string"
  end
end

-- members: s[i] is an object's opening brace. Puts the raw values of the wanted members
-- into found and their first and last positions into at; null counts as not stated.
-- Returns a message when the object must be refused.
local function members(s, i, wanted, found, at)
  local seen = {}
  i = find(s, "[^%s]", i + 1)
  while i and byte(s, i) == QUOTE do
    local e = string_end(s, i)
    if not e then break end
    local name = sub(s, i + 1, e - 1)
    if find(name, "\\", 1, true) then return "escapes in the name of a member are not accepted: " .. name end
    local key = lower(name)
    if seen[key] then return "duplicate member: " .. name end
    seen[key] = true
    local from = find(s, "[^%s:]", e + 1)
    local to = from and value_end(s, from)
    if not to then break end
    local kind = wanted[key]
    if kind then
      if name ~= (SPELLING[key] or key) then return "unknown member " .. name .. ": did you mean " .. (SPELLING[key] or key) .. "?" end
      at[key] = { from, to }
      local raw = kind ~= OBJECT and kind ~= TEXT and sub(s, from, to) or sub(s, from, from + 3)
      if raw ~= "null" then
        local message = check(kind, name, raw)
        if message then return message end
        found[key] = raw
      end
    end
    i = find(s, "[^%s]", to + 1)
    local c = i and byte(s, i)
    if c == CLOSE then return nil end
    if c ~= COMMA then break end
    i = find(s, "[^%s]", i + 1)
  end
  if i and byte(s, i) == CLOSE then return nil end
  return "body is not a JSON object"
end

-- either: the value of one of two spellings; both only when they agree.
local function either(found, a, b)
  if found[a] and found[b] and found[a] ~= found[b] then
    return nil, "both " .. (SPELLING[a] or a) .. " and " .. b .. " are given and they differ"
  end
  return found[a] or found[b]
end

-- openai: facts from a chat or embeddings body, or a message.
local function openai(s, i, facts)
  local found, at = {}, {}
  local message = members(s, i, OPENAI, found, at)
  if message then return message end
  if not found.model or sub(s, at.model[1], at.model[2]) == '""' then return "model is missing" end
  facts.max_tokens, facts.max_completion_tokens = found.max_tokens, found.max_completion_tokens
  local _, differ = either(found, "max_tokens", "max_completion_tokens")
  if differ then return differ end
  facts.n, facts.stream = found.n, found.stream
  if found.stream_options then
    local options = {}
    message = members(s, at.stream_options[1], OPENAI_STREAM, options, {})
    if message then return "stream_options: " .. message end
    facts.include_usage = options.include_usage
  end
end

-- gemini: facts from a generateContent body, and where its generationConfig is.
local function gemini(s, i, facts, body)
  local found, at = {}, {}
  local message = members(s, i, GEMINI, found, at)
  if message then return message end
  if at.generationconfig and at.generation_config then return "both generationConfig and generation_config are given" end
  local where = at.generationconfig or at.generation_config
  if not where then return end
  body.generation_from, body.generation_to = where[1], where[2]
  if not (found.generationconfig or found.generation_config) then return end
  local options, differ = {}, nil
  message = members(s, where[1], GEMINI_GENERATION, options, {})
  if message then return "generationConfig: " .. message end
  facts.max_tokens, differ = either(options, "maxoutputtokens", "max_output_tokens")
  if differ then return "generationConfig: " .. differ end
  facts.n, differ = either(options, "candidatecount", "candidate_count")
  if differ then return "generationConfig: " .. differ end
end

local function refuse(h, status, message)
  h:respond({ [":status"] = status }, message)
end

function envoy_on_request(h)
  local headers = h:headers()
  local coding = headers:get("content-encoding")
  if coding and lower(coding) ~= "identity" then
    return refuse(h, "415", "content-encoding " .. coding .. " is not accepted: send the body uncompressed")
  end
  local media = headers:get("content-type")
  if not media or not find(lower(media), "^application/json%s*$") and not find(lower(media), "^application/json%s*;") then
    return refuse(h, "400", "content-type must be application/json")
  end
  -- Take the body first: body() yields, and objects taken before it die.
  local buffer = h:body()
  local size = buffer and buffer:length() or 0
  if size == 0 then return refuse(h, "400", "the request has no body: send a JSON object") end
  local s = buffer:getBytes(0, size)

  local metadata = h:streamInfo():dynamicMetadata()
  local parsed = metadata:get("llm.request")
  local i = find(s, "[^%s]")
  if not parsed or parsed.model == "!" or byte(s, i or 1) ~= OPEN then
    return refuse(h, "400", "body is not a JSON object, or holds an integer of more than 64 bits")
  end
  local facts, body = {}, { bytes = size }
  local read = h:filterContext():get("protocol") == "gemini" and gemini or openai
  local message = read(s, i, facts, body)
  if message then return refuse(h, "400", message) end
  for name, value in pairs(facts) do metadata:set("llm.request", name, value) end
  for name, value in pairs(body) do metadata:set("llm.body", name, tostring(value)) end
  -- Routes that match the model choose the provider now.
  h:clearRouteCache()
end
