-- Parts: what of a request's content is no text but names something whose tokens its bytes do
-- not tell: pictures, sound, films and files, in the body or by reference. They are counted
-- here by kind and priced in ratelimit.
--
-- A provider may read a part by its type or by the member that holds it, and names without
-- regard to case, so everything is counted that one of them could read: too high a hold is
-- given back when the call is settled, too low a one lets a limit be exceeded. What is not
-- counted is what no provider reads parts in: arguments and results of functions.
--
-- Go puts this text after json.lua and before the guard's.

local IMAGE, AUDIO, VIDEO, FILE = "image", "audio", "video", "file"
local CACHED, PREVIOUS, TOOL, TOOL_PROMPT = "cached", "previous", "tool", "tool_prompt"
local KINDS = { IMAGE, AUDIO, VIDEO, FILE, CACHED, PREVIOUS, TOOL, TOOL_PROMPT }

-- Whose API a body is of. Gemini's tools have no type, and Anthropic's bring instructions.
local OPENAI_API, ANTHROPIC_API, GEMINI_API = "openai", "anthropic", "gemini"

local BY_TYPE, BY_MEDIA, REFERENCE, OPAQUE = "type", "media type", "reference", "opaque"

-- MEMBERS are the members of content that hold a part, or say what is one. A name that is false
-- is common and means nothing here, so that it need not be folded.
local MEMBERS = {
  role = false, content = false, text = false, parts = false, name = false, tool_calls = false,
  tool_call_id = false, id = false, cache_control = false, detail = false,
  type = BY_TYPE,
  image_url = IMAGE, image = IMAGE, images = IMAGE, image_file = IMAGE, input_image = IMAGE,
  audio_url = AUDIO, audio = AUDIO, input_audio = AUDIO,
  video_url = VIDEO, video = VIDEO, input_video = VIDEO, videometadata = false, video_metadata = false,
  file = FILE,
  -- An image or a sound may be given by such a member too; then its type says so.
  file_id = REFERENCE, file_url = REFERENCE, file_uri = REFERENCE, fileuri = REFERENCE,
  -- Of any kind: it is told inside. OpenAI's file_data is a string.
  inlinedata = BY_MEDIA, inline_data = BY_MEDIA, filedata = BY_MEDIA, file_data = BY_MEDIA, source = BY_MEDIA,
  -- Of a call of a function and its result.
  args = OPAQUE, arguments = OPAQUE, input = OPAQUE, response = OPAQUE,
}

-- TYPES are the values of a part's type that ask for a part.
local TYPES = {
  image_url = IMAGE, input_image = IMAGE, image = IMAGE, image_file = IMAGE, computer_screenshot = IMAGE,
  input_audio = AUDIO, audio = AUDIO, audio_url = AUDIO,
  video_url = VIDEO, video = VIDEO, input_video = VIDEO,
  file = FILE, input_file = FILE, document = FILE, container_upload = FILE,
  item_reference = PREVIOUS,
  -- Items of Responses that bring tools or have the context rewritten.
  additional_tools = TOOL, tool_search_output = TOOL, configuration_update = TOOL, compaction_trigger = TOOL,
}

-- CLIENT are the tools that the client runs itself. Any other runs at the provider, whose input
-- then is more than the body's.
local CLIENT = {
  ["function"] = true, custom = true, local_shell = true, shell = true, apply_patch = true,
  functiondeclarations = true, function_declarations = true, computeruse = true, computer_use = true,
  computer_use_preview = true, namespace = true, -- a group of functions
}
-- Anthropic dates them: bash_20250124.
local CLIENT_DATED = { bash = true, text_editor = true, computer = true, memory = true }

-- DATA are members of a part that hold its bytes in base64, MEDIA those that name its media type.
local DATA = { data = true, bytes = true, file_data = true, image_bytes = true, imagebytes = true }
local MEDIA = { mimetype = true, mime_type = true, media_type = true, mediatype = true }

-- Characters whose lower or upper case is an ASCII letter's.
local FOLDS = { ["\226\132\170"] = "k", ["\197\191"] = "s", ["\196\176"] = "i", ["\196\177"] = "i" }
local CODES = { [0x212a] = "k", [0x17f] = "s", [0x130] = "i", [0x131] = "i" }

local function unescape(code)
  local n = tonumber(code, 16)
  return n < 128 and string.char(n) or CODES[n] or "?"
end

-- Names and words recur from call to call, and LuaJIT compiles no search by pattern: what they
-- fold to is remembered, of at most MAX_FOLDED of them.
local MAX_FOLDED = 512
local known_folded, known_count = {}, 0

-- folded is what the most lenient provider reads s[from..to] as, a name or a word.
local function folded(s, from, to)
  if to - from > 160 then return "" end -- longer than any of ours with each letter escaped
  local raw = sub(s, from, to)
  local name = known_folded[raw]
  if name then return name end
  name = raw
  if find(name, "\\", 1, true) then name = string.gsub(string.gsub(name, "\\u(%x%x%x%x)", unescape), "\\/", "/") end
  if find(name, "[\194-\244]") then name = string.gsub(name, "[\194-\244][\128-\191]+", FOLDS) end
  name = lower(name)
  if known_count == MAX_FOLDED then known_folded, known_count = {}, 0 end
  known_folded[raw], known_count = name, known_count + 1
  return name
end

-- meaning looks a name up as it stands, and folds it only if that does not find it.
local function meaning(names, s, from, to)
  local what = names[sub(s, from, to)]
  if what == nil then what = names[folded(s, from, to)] end
  return what
end

local function of_media(text)
  local kind = string.match(text, "^%a+")
  if kind == IMAGE or kind == AUDIO or kind == VIDEO then return kind end
  return FILE
end

-- count adds parts of a kind, of which so many bytes stand in the body; none: it is by reference.
local function count(tally, kind, bytes)
  local t = tally[kind]
  if not t then
    t = { parts = 0, references = 0, bytes = 0 }
    tally[kind] = t
  end
  t.parts, t.bytes = t.parts + 1, t.bytes + bytes
  if bytes == 0 then t.references = t.references + 1 end
end

-- inside: s[i] begins a value within a part; its end. What it tells of the part goes into told.
local function inside(s, i, c, told, depth)
  if depth > MAX_DEPTH then return stop(i) end
  if c == LIST then
    i, c = space(s, i + 1)
    if c == LIST_END then return i end
    while true do
      i = inside(s, i, c, told, depth + 1)
      if not i then return nil end
      i, c = space(s, i + 1)
      if c == LIST_END then return i end
      if c ~= COMMA then return stop(i) end
      i, c = space(s, i + 1)
    end
  elseif c ~= OPEN then
    local last = scalar_end(s, i, c)
    if last and c == QUOTE and lower(sub(s, i + 1, i + 5)) == "data:" then
      told.media = told.media or lower(string.gsub(sub(s, i + 6, i + 40), "\\/", "/"))
      told.bytes = told.bytes + last - i - 1
    end
    return last
  end
  i, c = space(s, i + 1)
  if c == CLOSE then return i end
  while true do
    local e, from, first = name_end(s, i, c)
    if not e then return nil end
    local last = inside(s, from, first, told, depth + 1)
    if not last then return nil end
    if first == QUOTE then
      local name = folded(s, i + 1, e - 1)
      if MEDIA[name] then
        told.media = folded(s, from + 1, last - 1)
      elseif DATA[name] and lower(sub(s, from + 1, from + 5)) ~= "data:" then
        told.bytes = told.bytes + last - from - 1
      end
    end
    i, c = space(s, last + 1)
    if c == CLOSE then return i end
    if c ~= COMMA then return stop(i) end
    i, c = space(s, i + 1)
  end
end

-- part: s[i] begins the value of a member that holds a part of the kind, or a list of them. Its
-- end, the kind that was counted, and how many bytes are of a kind that only the type tells.
local function part(s, i, c, kind, tally, depth)
  if depth > MAX_DEPTH then return stop(i) end
  if c == LIST then
    local counted, untold, last
    i, c = space(s, i + 1)
    if c == LIST_END then return i end
    while true do
      last, counted, untold = part(s, i, c, kind, tally, depth + 1)
      if not last then return nil end
      i, c = space(s, last + 1)
      if c == LIST_END then return i, counted, untold end
      if c ~= COMMA then return stop(i) end
      i, c = space(s, i + 1)
    end
  end
  if c ~= OPEN and c ~= QUOTE then return scalar_end(s, i, c) end -- null: there is none
  local told = { bytes = 0 }
  local last = inside(s, i, c, told, depth)
  if not last then return nil end
  if kind == BY_MEDIA then
    if c == QUOTE and not told.media then told.bytes = last - i - 1 end -- base64 and nothing else
    if not told.media then return last, nil, told.bytes end
    kind = of_media(told.media)
  end
  count(tally, kind, told.bytes)
  return last, kind
end

local object

-- content: s[i] begins a value in which parts may be; its end. Counts them into tally.
local function content(s, i, c, tally, depth)
  if c == OPEN then return object(s, i, tally, depth + 1) end
  if c ~= LIST then return scalar_end(s, i, c) end
  if depth > MAX_DEPTH then return stop(i) end
  i, c = space(s, i + 1)
  if c == LIST_END then return i end
  while true do
    if c == OPEN or c == LIST then
      i = content(s, i, c, tally, depth + 1)
    else
      i = scalar_end(s, i, c)
    end
    if not i then return nil end
    i, c = space(s, i + 1)
    if c == LIST_END then return i end
    if c ~= COMMA then return stop(i) end
    i, c = space(s, i + 1)
  end
end

object = function(s, i, tally, depth)
  if depth > MAX_DEPTH then return stop(i) end
  -- What a member told and was counted, what the type says, the bytes of what only it can tell.
  local counted, kind, untold, c
  i, c = space(s, i + 1)
  if c == CLOSE then return i end
  while true do
    local e, from, first = name_end(s, i, c)
    if not e then return nil end
    local what, last = meaning(MEMBERS, s, i + 1, e - 1), nil
    if not what then
      last = content(s, from, first, tally, depth)
    elseif what == BY_TYPE then
      last = content(s, from, first, tally, depth)
      local said = last and first == QUOTE and TYPES[folded(s, from + 1, last - 1)]
      if said then
        if kind and kind ~= said then count(tally, kind, 0) end -- two types: either may be read
        kind = said
      end
    elseif what == OPAQUE or what == REFERENCE then
      last = value_end(s, from, first)
      if what == REFERENCE and first == QUOTE then untold = untold or 0 end
    else
      local one, bytes
      last, one, bytes = part(s, from, first, what, tally, depth + 1)
      counted, untold = one or counted, bytes or untold
    end
    if not last then return nil end
    i, c = space(s, last + 1)
    if c == CLOSE then break end
    if c ~= COMMA then return stop(i) end
    i, c = space(s, i + 1)
  end
  if kind and kind ~= counted then
    count(tally, kind, untold or 0)
  elseif untold and not counted then
    count(tally, FILE, untold)
  end
  return i
end

-- PLAIN are the members of a tool that the client runs, where none says its type.
local PLAIN = {
  type = true, name = true, description = true, parameters = true, input_schema = true, strict = true,
  cache_control = true, format = true, display_width_px = true, display_height_px = true, environment = true,
  defer_loading = true, input_examples = true, eager_input_streaming = true, allowed_callers = true,
}

-- tool: s[i] begins one tool; its end, whether the provider runs it, and whether the provider
-- describes it.
local function tool(s, i, api)
  local hosted, typed, other, dated, c = false, false, false, false, nil
  i, c = space(s, i + 1)
  if c == CLOSE then return i, false end
  while true do
    local e, from, first = name_end(s, i, c)
    if not e then return nil end
    local name, last = folded(s, i + 1, e - 1), value_end(s, from, first)
    if not last then return nil end
    if name == "type" and api ~= GEMINI_API then
      local said = folded(s, from + 1, last - 1)
      local undated = CLIENT_DATED[string.match(said, "^(.*)_%d+$") or ""]
      typed, dated = true, dated or undated
      hosted = hosted or first ~= QUOTE or not (CLIENT[said] or undated)
    elseif not (PLAIN[name] or CLIENT[name]) and sub(s, from, last) ~= "null" then
      other = true
    end
    i, c = space(s, last + 1)
    if c == CLOSE then return i, hosted or other and not typed, dated end
    if c ~= COMMA then return stop(i) end
    i, c = space(s, i + 1)
  end
end

-- tools: s[i] begins the value of the member that lists tools; its end.
local function tools(s, i, c, tally, api)
  local hosted, dated, last
  if c == OPEN then
    last, hosted = tool(s, i, api)
    if hosted then count(tally, TOOL, 0) end
    return last
  end
  if c ~= LIST then return scalar_end(s, i, c) end
  i, c = space(s, i + 1)
  if c == LIST_END then return i end
  if api == ANTHROPIC_API then count(tally, TOOL_PROMPT, 0) end
  while true do
    hosted, dated = false, false
    if c == OPEN then last, hosted, dated = tool(s, i, api) else last = value_end(s, i, c) end
    if not last then return nil end
    if hosted then count(tally, TOOL, 0) end
    if dated and api == ANTHROPIC_API then count(tally, TOOL_PROMPT, 0) end
    i, c = space(s, last + 1)
    if c == LIST_END then return i end
    if c ~= COMMA then return stop(i) end
    i, c = space(s, i + 1)
  end
end

-- Members of the whole body, by name in lower case: those that hold content, and those that
-- name input which is not in the body.
local ROOTS = {
  messages = true, input = true, contents = true, system = true, instructions = true, prompt = true,
  systeminstruction = true, system_instruction = true, content = true, requests = true,
}
local NAMED = {
  cachedcontent = CACHED, cached_content = CACHED, previous_response_id = PREVIOUS, conversation = PREVIOUS,
  web_search_options = TOOL, search_parameters = TOOL, enable_search = TOOL, plugins = TOOL, data_sources = TOOL,
  mcp_servers = TOOL, container = TOOL, compaction = TOOL, fallbacks = TOOL,
}

-- scan is value_end for a member of the whole body, and counts what it holds or names.
local function scan(s, i, c, key, tally, api)
  if key == "prompt" and c == OPEN then count(tally, PREVIOUS, 0) end -- one that the provider keeps
  if ROOTS[key] then return content(s, i, c, tally, 0) end
  if key == "tools" then return tools(s, i, c, tally, api) end
  local last = value_end(s, i, c)
  -- The provider may ask the model for a summary, which is not in the answer's count.
  if last and key == "context_management" and find(sub(s, i, last), "compact", 1, true) then count(tally, TOOL, 0) end
  if last and NAMED[key] then
    local raw = sub(s, i, last)
    if raw ~= "null" and raw ~= "false" and raw ~= "[]" then count(tally, NAMED[key], 0) end
  end
  return last
end

-- counted writes a tally down as the limiter reads it: kind:parts:references:bytes of each.
local function counted(tally)
  if not next(tally) then return nil end
  local all = {}
  for _, kind in ipairs(KINDS) do
    local t = tally[kind]
    if t then all[#all + 1] = string.format("%s:%d:%d:%d", kind, t.parts, t.references, t.bytes) end
  end
  return table.concat(all, ",")
end
