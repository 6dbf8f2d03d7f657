-- The guard: no LLM request passes whose body two JSON parsers could read differently.
--
-- It checks the structure of the whole body strictly (what is inside a string does not
-- matter to it), refuses duplicate members (names compared without case, as some providers
-- do), names with escapes or beyond ASCII, and values of decision-relevant members that are not
-- exactly what they must be. Then it states the facts that routes and ratelimit decide on, and
-- where in the body stands what the splice may replace.
--
-- json_to_metadata could read these fields too. Measured on Envoy 1.40 it takes 0.4 us for
-- each element of an array, so one 3 MB list of numbers stops a worker for more than a
-- second; it fails on integers above int64; and its conversion to text hides whether
-- max_tokens was a number or a string.

local gsub = string.gsub

local TOKENS, COUNT, FLAG, OBJECT, TEXT = "tokens", "count", "flag", "object", "text"
local MAX_TOKENS = 2147483647
local MAX_CHOICES = 128
local MAX_MODEL = 256
local MAX_MEMBERS = 256
local BOM = "\239\187\191"
local LONGEST_LABEL = 128

-- What a call says of itself beside what is decided on (leaky.yaml's dimensions). wanted_members
-- are names of the document's members to note in told_members; one script runs at a time, and
-- nothing yields between the start of a parse and its end.
local wanted_members, told_members = nil, nil

local OPENAI = {
  model = TEXT, max_tokens = TOKENS, max_completion_tokens = TOKENS, n = COUNT, best_of = COUNT,
  stream = FLAG, stream_options = OBJECT,
}
local OPENAI_STREAM = { include_usage = FLAG }
local GEMINI = { generationconfig = OBJECT, generation_config = OBJECT }
local GEMINI_GENERATION = {
  maxoutputtokens = TOKENS, max_output_tokens = TOKENS, candidatecount = COUNT, candidate_count = COUNT,
}
-- Names above whose spelling is not their own lower case.
local SPELLING = { generationconfig = "generationConfig", maxoutputtokens = "maxOutputTokens", candidatecount = "candidateCount" }

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

-- member: notes the wanted member whose value is s[from..to]; null counts as not stated.
local function member(s, key, name, from, to, kind, found)
  local spelling = SPELLING[key] or key
  if name ~= spelling then return "unknown member " .. name .. ": did you mean " .. spelling .. "?" end
  local raw = sub(s, from, kind == OBJECT and from + 3 or to)
  if raw == "null" then return nil end
  found[key] = raw
  return check(kind, name, raw)
end

-- name_at: the name of the member that begins at s[i], and its closing quote; or why it is
-- refused. A name of letters that only some parsers take for ours would be two readings.
local good_names, good_count = {}, 0 -- as with folded: at most MAX_FOLDED of them

local function name_at(s, i, c)
  if c ~= QUOTE then return stop(i) end
  local e = string_end(s, i)
  if not e then return nil end
  local name = sub(s, i + 1, e - 1)
  if good_names[name] then return name, e end
  if #name > 64 then name = sub(name, 1, 64) .. "..." end
  if find(name, "\\", 1, true) then return nil, "escapes in the name of a member are not accepted: " .. name end
  if find(name, "[\128-\255]") then return nil, "the name of a member is not ASCII" end
  if good_count == MAX_FOLDED then good_names, good_count = {}, 0 end
  good_names[name], good_count = true, good_count + 1
  return name, e
end

-- members: s[i] is an object's opening brace. Puts the raw values of the wanted members into
-- found, and into at where they stand: the first and last byte of the value, then those of the
-- name. With a tally, its values are content. Returns the position of the closing brace; or nil,
-- why the object is refused (nil: it is not JSON), and the member to blame.
local function members(s, i, wanted, found, at, tally, gemini)
  local seen, c = {}, nil
  i, c = space(s, i + 1)
  if c == CLOSE then return i end
  for _ = 1, MAX_MEMBERS do
    local name, e = name_at(s, i, c)
    if not name then return nil, e end
    local key = lower(name)
    if seen[key] then return nil, "duplicate member: " .. name, name end
    seen[key] = true
    local before = i
    i, c = space(s, e + 1)
    if c ~= COLON then return nil, stop(i), name end
    local from, to
    from, c = space(s, i + 1)
    if tally then to = scan(s, from, c, key, tally, gemini) else to = value_end(s, from, c) end
    if not to then return nil, nil, name end
    if tally and wanted_members and wanted_members[name] and byte(s, from) == QUOTE then
      told_members[name] = sub(s, from + 1, from + LONGEST_LABEL + 2)
    end
    if wanted[key] then
      at[key] = { from, to, before + 1, e - 1 }
      local message = member(s, key, name, from, to, wanted[key], found)
      if message then return nil, message, name end
    end
    i, c = space(s, to + 1)
    if c == CLOSE then return i end
    if c ~= COMMA then return nil, stop(i) end
    i, c = space(s, i + 1)
  end
  return nil, "more than " .. MAX_MEMBERS .. " members"
end

-- document: like members, for an object that is the whole body. Returns why it is refused, and
-- the member to blame; else notes where it ends.
local function document(s, wanted, found, at, tally, gemini)
  local i, c = space(s, 1)
  local last, message, blamed
  if c == OPEN then
    last, message, blamed = members(s, i, wanted, found, at, tally, gemini)
  else
    stop(i)
  end
  if last then
    i = space(s, last + 1)
    at.document = { last, last }
    if i > #s then return nil end
    stop(i)
  end
  return message or "the body is not a JSON object: " .. whereabouts(s), blamed
end

-- nested: members for the object that the member key of the document holds.
local function nested(s, key, wanted, found, at)
  local inner = {}
  local last, message, blamed = members(s, at[key][1], wanted, found, inner)
  for name, where in pairs(inner) do at[name] = where end
  if last then return nil end
  local name = SPELLING[key] or key
  return name .. ": " .. message, blamed and name .. "." .. blamed or name
end

-- either: the value of one of two spellings; both only when they agree.
local function either(found, a, b)
  if found[a] and found[b] and found[a] ~= found[b] then
    return nil, "both " .. (SPELLING[a] or a) .. " and " .. b .. " are given and they differ"
  end
  return found[a] or found[b]
end

-- openai: facts from a chat or embeddings body, or a message and the member to blame.
local function openai(s, facts, at, tally)
  local found = {}
  local message, blamed = document(s, OPENAI, found, at, tally, false)
  if message then return message, blamed end
  -- Some clients write / as \/; no model's name needs another escape.
  local model = found.model and sub(found.model, 2, -2) or ""
  if find(model, "\\", 1, true) then model = gsub(model, "\\/", "/") end
  if model == "" then return "model is missing", "model" end
  if #model > MAX_MODEL or find(model, "[%c\\]") then return "model is not a model's name", "model" end
  facts.model = model
  facts.max_tokens, facts.max_completion_tokens = found.max_tokens, found.max_completion_tokens
  local _, differ = either(found, "max_tokens", "max_completion_tokens")
  if differ then return differ, "max_tokens" end
  facts.n, facts.stream = found.n, found.stream
  -- best_of are answered, and n of them told.
  if found.best_of and tonumber(found.best_of) > tonumber(found.n or "1") then facts.n = found.best_of end
  if found.stream_options then
    local options = {}
    message, blamed = nested(s, "stream_options", OPENAI_STREAM, options, at)
    if message then return message, blamed end
    facts.include_usage = options.include_usage
  end
end

-- gemini: facts from a generateContent body.
local function gemini(s, facts, at, tally)
  local found = {}
  local message, blamed = document(s, GEMINI, found, at, tally, true)
  if message then return message, blamed end
  if at.generationconfig and at.generation_config then return "both generationConfig and generation_config are given" end
  local key = found.generationconfig and "generationconfig" or found.generation_config and "generation_config"
  if not key then return end
  local options, differ = {}, nil
  message, blamed = nested(s, key, GEMINI_GENERATION, options, at)
  if message then return message, blamed end
  facts.max_tokens, differ = either(options, "maxoutputtokens", "max_output_tokens")
  if differ then return "generationConfig: " .. differ end
  facts.n, differ = either(options, "candidatecount", "candidate_count")
  if differ then return "generationConfig: " .. differ end
end

-- positions writes down where the splice finds what it may replace: name=from,to,... of each.
local function positions(at)
  local all = {}
  for key, where in pairs(at) do all[#all + 1] = key .. "=" .. table.concat(where, ",") end
  return table.concat(all, ";")
end

-- dimensions of a route, as xds writes them: NAME|HEADER|MEMBER;... Read once for each text.
local known_dimensions = {}

local function dimensions(text)
  local all = known_dimensions[text]
  if all then return all end
  all = { members = {} }
  for name, header, member_name in string.gmatch(text, "([^|;]+)|([^|;]*)|([^|;]*)") do
    all[#all + 1] = { name = name, header = header ~= "" and header, member = member_name ~= "" and member_name }
    if member_name ~= "" then all.members[member_name] = true end
  end
  known_dimensions = { [text] = all } -- of the present configuration alone
  return all
end

-- label: a value as it is kept, or nil for one that is not: empty, too long, not printable ASCII, or
-- with an escape of JSON.
local function label(value, quoted)
  if not value then return nil end
  if quoted then
    local e = find(value, '"', 1, true)
    if not e then return nil end
    value = sub(value, 1, e - 1)
    if find(value, "\\", 1, true) then return nil end
  end
  if #value > LONGEST_LABEL or not find(value, "^[\32-\126]+$") then return nil end
  return value
end

local function percent(c) return string.format("%%%02X", byte(c)) end

-- labelled puts what the call says of itself into facts: end_user, session and tag.NAME for limits,
-- and the tags together as a query string for the log.
local function labelled(facts, all, headers, told)
  local tags = {}
  for _, d in ipairs(all) do
    local value = d.header and label(headers:get(d.header), false) or d.member and label(told[d.member], true)
    if value then
      facts[d.name] = value
      if sub(d.name, 1, 4) == "tag." then
        tags[#tags + 1] = sub(d.name, 5) .. "=" .. gsub(value, "[^%w._-]", percent)
      end
    end
  end
  if #tags > 0 then facts.tags = table.concat(tags, "&") end
end

-- media_type: why a content type is refused. The bytes are read as UTF-8 here, so a provider
-- must not be told of another charset.
local function media_type(text)
  if text == "application/json" then return nil end
  text = lower(text)
  if not find(text, "^application/json%s*$") and not find(text, "^application/json%s*;") then
    return "content-type must be application/json"
  end
  for charset in string.gmatch(text, "charset%s*=%s*\"?([^;\"%s]*)") do
    if charset ~= "utf-8" and charset ~= "utf8" then return "content-type: the charset must be utf-8" end
  end
end

local function refuse(h, status, message, param)
  if param then h:streamInfo():dynamicMetadata():set("llm.refusal", "param", param) end
  h:respond({ [":status"] = status }, message)
end

function envoy_on_request(h)
  local headers = h:headers()
  local coding = headers:get("content-encoding")
  if coding and lower(coding) ~= "identity" then
    return refuse(h, "415", "content-encoding is not accepted: send the body uncompressed")
  end
  local wrong = media_type(headers:get("content-type") or "")
  if wrong then return refuse(h, "400", wrong) end
  -- Take the body first: body() yields, and objects taken before it die.
  local buffer = h:body()
  local size = buffer and buffer:length() or 0
  if size == 0 then return refuse(h, "400", "the request has no body: send a JSON object") end
  local context = h:filterContext()
  if size > context:get("max_bytes") then return refuse(h, "413", "the body is too large") end
  local text = buffer:getBytes(0, size)
  if sub(text, 1, 3) == BOM then -- RFC 8259, 8.1: may be ignored, and must not be sent
    text, size = sub(text, 4), size - 3
    h:headers():replace("content-length", buffer:setBytes(text))
  end
  local facts, at, tally = {}, {}, {}
  local read = context:get("protocol") == "gemini" and gemini or openai
  local labels = dimensions(context:get("dimensions") or "")
  wanted_members, told_members = labels.members, {}
  local message, param = read(text, facts, at, tally)
  if message then return refuse(h, "400", message, param) end
  if context:get("state_max") and not facts.max_tokens and not facts.max_completion_tokens then
    return refuse(h, "400", "max_tokens is missing: this route takes no call without it", "max_tokens")
  end

  labelled(facts, labels, h:headers(), told_members)
  facts.parts = counted(tally)
  local metadata = h:streamInfo():dynamicMetadata()
  for name, value in pairs(facts) do metadata:set("llm.request", name, value) end
  metadata:set("llm.body", "bytes", tostring(size))
  metadata:set("llm.body", "at", positions(at))
  -- Routes that match the model choose the provider now.
  h:clearRouteCache()
end
