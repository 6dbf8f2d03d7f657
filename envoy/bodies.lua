-- Bodies: what the guard reads of a request in each dialect. It goes over the whole body strictly,
-- takes the members that are decided on, and refuses what two parsers could read differently.
--
-- Go puts this text after parts.lua and before the guard's.

local gsub = string.gsub

-- What the value of a member must be; of a PLACE only where it stands is noted.
local TOKENS, COUNT, FLAG, OBJECT, TEXT, PLACE = "tokens", "count", "flag", "object", "text", "place"
local MAX_TOKENS = 2147483647
local MAX_CHOICES = 128
local MAX_MODEL = 256
local MAX_MEMBERS = 256
local BOM = "\239\187\191"
local LONGEST_LABEL = 128
local MAX_PROMPTS = 4096 -- answers that one call may ask for

-- What a call says of itself beside what is decided on (leaky.yaml's dimensions). wanted_members
-- are names of the document's members to note in told_members; one script runs at a time, and
-- nothing yields between the start of a parse and its end.
local wanted_members, told_members = nil, nil

-- The members that are decided on, of a body in each dialect. The names are those of package
-- operation.
local CHAT = {
  model = TEXT, max_tokens = TOKENS, max_completion_tokens = TOKENS, n = COUNT, best_of = COUNT,
  stream = FLAG, stream_options = OBJECT,
}
local COMPLETIONS = {
  model = TEXT, max_tokens = TOKENS, max_completion_tokens = TOKENS, n = COUNT, best_of = COUNT,
  stream = FLAG, stream_options = OBJECT, prompt = PLACE,
}
local RESPONSES = {
  model = TEXT, max_output_tokens = TOKENS, n = COUNT, stream = FLAG, background = FLAG, stream_options = OBJECT,
}
local MESSAGES = { model = TEXT, max_tokens = TOKENS, stream = FLAG }
local NAMED_MODEL = { model = TEXT }
local USAGE_OPTION = { include_usage = FLAG }
local GEMINI = { generationconfig = OBJECT, generation_config = OBJECT }
local GEMINI_GENERATION = {
  maxoutputtokens = TOKENS, max_output_tokens = TOKENS, candidatecount = COUNT, candidate_count = COUNT,
}
local GEMINI_BATCH = { model = TEXT, requests = PLACE }
local GEMINI_COUNT = { model = TEXT, generatecontentrequest = OBJECT, generate_content_request = OBJECT }
-- Names above whose spelling is not their own lower case.
local SPELLING = {
  generationconfig = "generationConfig", maxoutputtokens = "maxOutputTokens", candidatecount = "candidateCount",
  generatecontentrequest = "generateContentRequest",
}

local function check(kind, name, raw)
  if kind == PLACE then return nil end
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
  local raw = sub(s, from, (kind == OBJECT or kind == PLACE) and from + 3 or to)
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
local function members(s, i, wanted, found, at, tally, api)
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
    if tally then to = scan(s, from, c, key, tally, api) else to = value_end(s, from, c) end
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
local function document(s, wanted, found, at, tally, api)
  local i, c = space(s, 1)
  local last, message, blamed
  if c == OPEN then
    last, message, blamed = members(s, i, wanted, found, at, tally, api)
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

-- named reads the model's name, which the caller must state unless there is another.
local function named(found, facts, other)
  -- Some clients write / as \/; no model's name needs another escape.
  local model = found.model and sub(found.model, 2, -2) or other or ""
  if find(model, "\\", 1, true) then model = gsub(model, "\\/", "/") end
  if model == "" then return "model is missing", "model" end
  if #model > MAX_MODEL or find(model, "[%c\\]") then return "model is not a model's name", "model" end
  facts.model = model
end

-- asked_usage notes whether a stream's usage was asked for.
local function asked_usage(s, found, facts, at)
  if not found.stream_options then return end
  local options = {}
  local message, blamed = nested(s, "stream_options", USAGE_OPTION, options, at)
  facts.include_usage = options.include_usage
  return message, blamed
end

-- chat_like: facts from a body like that of a chat, or a message and the member to blame.
local function chat_like(s, facts, at, tally, wanted)
  local found = {}
  local message, blamed = document(s, wanted, found, at, tally, OPENAI_API)
  if message then return message, blamed end
  message, blamed = named(found, facts)
  if message then return message, blamed end
  facts.max_tokens, facts.max_completion_tokens = found.max_tokens, found.max_completion_tokens
  local _, differ = either(found, "max_tokens", "max_completion_tokens")
  if differ then return differ, "max_tokens" end
  facts.n, facts.stream = found.n, found.stream
  -- best_of are answered, and n of them told.
  if found.best_of and tonumber(found.best_of) > tonumber(found.n or "1") then facts.n = found.best_of end
  return asked_usage(s, found, facts, at)
end

-- chat: chat completions and embeddings.
local function chat(s, facts, at, tally) return chat_like(s, facts, at, tally, CHAT) end

-- prompts counts the prompts of a list: its texts and its lists of tokens, each of which is
-- answered. A list of numbers is one prompt.
local function prompts(s, i)
  local all, c = 0, nil
  if byte(s, i) ~= LIST then return 1 end
  i, c = space(s, i + 1)
  while c ~= LIST_END do -- the list was read before, so it is sound
    if c == QUOTE or c == LIST or c == OPEN then all = all + 1 end
    i, c = space(s, value_end(s, i, c) + 1)
    if c == COMMA then i, c = space(s, i + 1) end
  end
  return all > 0 and all or 1
end

-- completions: as chat, where each prompt has its answers.
local function completions(s, facts, at, tally)
  local message, blamed = chat_like(s, facts, at, tally, COMPLETIONS)
  if message then return message, blamed end
  local all = (at.prompt and prompts(s, at.prompt[1]) or 1) * tonumber(facts.n or "1")
  if all > MAX_PROMPTS then return "prompt: at most " .. MAX_PROMPTS .. " answers are taken in one call", "prompt" end
  if all > 1 then facts.n = string.format("%d", all) end
end

-- responses: what OpenAI's Responses take.
local function responses(s, facts, at, tally)
  local found = {}
  local message, blamed = document(s, RESPONSES, found, at, tally, OPENAI_API)
  if message then return message, blamed end
  message, blamed = named(found, facts)
  if message then return message, blamed end
  if found.background == "true" then
    return "background is not served: nobody would be here to count its tokens; leave it out, and stream the answer if it takes long", "background"
  end
  facts.max_tokens, facts.n, facts.stream = found.max_output_tokens, found.n, found.stream
end

-- messages: what Anthropic's Messages take.
local function messages(s, facts, at, tally)
  local found = {}
  local message, blamed = document(s, MESSAGES, found, at, tally, ANTHROPIC_API)
  if message then return message, blamed end
  message, blamed = named(found, facts)
  facts.max_tokens, facts.stream = found.max_tokens, found.stream
  return message, blamed
end

-- free: a body of which the model alone matters; other is the one of a call that names none.
local function free(s, facts, at, tally, _, other)
  local found = {}
  local message, blamed = document(s, NAMED_MODEL, found, at, tally, OPENAI_API)
  if message then return message, blamed end
  return named(found, facts, other)
end

-- same says that a body names another model than its path, which is the one that is held for.
local function same(found, path, where)
  local model = found.model and gsub(sub(found.model, 2, -2), "\\/", "/")
  if not model or model == path or model == "models/" .. path then return nil end
  return where .. "model is another than the path's; leave it out, or write models/" .. path, where .. "model"
end

-- gemini: facts from a body whose model is in its path.
local function gemini(s, facts, at, tally)
  local found = {}
  local message, blamed = document(s, GEMINI, found, at, tally, GEMINI_API)
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

-- gemini_embed: one content; Gemini's embeddings name their model in the body, too.
local function gemini_embed(s, _, at, tally, path)
  local found = {}
  local message, blamed = document(s, NAMED_MODEL, found, at, tally, GEMINI_API)
  if message then return message, blamed end
  return same(found, path, "")
end

-- gemini_batch: requests of one model. Their places go into at.models, two numbers for each.
local function gemini_batch(s, _, at, tally, path)
  local found = {}
  local message, blamed = document(s, GEMINI_BATCH, found, at, tally, GEMINI_API)
  if not message then message, blamed = same(found, path, "") end
  if message or not at.requests then return message, blamed end
  local i, c = at.requests[1], nil
  if byte(s, i) ~= LIST then return "requests must be a list", "requests" end
  local places, at_one = {}, nil
  i, c = space(s, i + 1)
  while c ~= LIST_END do
    if c ~= OPEN then return "requests: each must be an object", "requests" end
    found, at_one = {}, {}
    i, message = members(s, i, NAMED_MODEL, found, at_one)
    if not i then return "requests: " .. (message or "each must be an object"), "requests" end
    message, blamed = same(found, path, "requests[].")
    if message then return message, blamed end
    if at_one.model then places[#places + 1], places[#places + 2] = at_one.model[1], at_one.model[2] end
    i, c = space(s, i + 1)
    if c == COMMA then i, c = space(s, i + 1) end
  end
  if #places > 0 then at.models = places end
end

-- gemini_count: a content, or a whole request to count.
local function gemini_count(s, _, at, tally, path)
  local found = {}
  local message, blamed = document(s, GEMINI_COUNT, found, at, tally, GEMINI_API)
  if not message then message, blamed = same(found, path, "") end
  if message then return message, blamed end
  for _, key in ipairs({ "generatecontentrequest", "generate_content_request" }) do
    if found[key] then
      local one, at_one = {}, {}
      local last
      last, message, blamed = members(s, at[key][1], NAMED_MODEL, one, at_one)
      if not last then return (SPELLING[key] or key) .. ": " .. (message or "it is no object"), blamed end
      message, blamed = same(one, path, "generateContentRequest.")
      if message then return message, blamed end
      if at_one.model then at.models = { at_one.model[1], at_one.model[2] } end
    end
  end
end

-- READERS of bodies, by dialect.
local READERS = {
  chat = chat, completions = completions, responses = responses, messages = messages, count = free, moderations = free,
  gemini = gemini, ["gemini-embed"] = gemini_embed, ["gemini-batch"] = gemini_batch, ["gemini-count"] = gemini_count,
}
