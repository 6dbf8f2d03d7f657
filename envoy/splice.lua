-- The splice: makes the request what the provider must get. It writes into the body what
-- ratelimit decided, in place of what stands there or else before the last brace, so that no
-- member is there twice, and touches no other byte; and it lets only those headers and query
-- parameters pass that are known to tell no provider who calls or to leave the usage out.

local byte, find, gmatch, sub = string.byte, string.find, string.gmatch, string.sub
local OPEN = 123

-- places reads what the guard wrote down: the first and last byte of each value, then of its name.
local function places(text)
  local at = {}
  for key, list in gmatch(text or "", "([^=;]+)=([^;]+)") do
    local where = {}
    for n in gmatch(list, "%d+") do where[#where + 1] = tonumber(n) end
    at[key] = where
  end
  return at
end

-- edit puts text in place of s[from..to].
local function edit(edits, from, to, text) edits[#edits + 1] = { from, to, text } end

-- insert puts a member into the object that ends at s[last], which is its brace.
local function insert(s, edits, last, member)
  local i = last - 1
  while find(sub(s, i, i), "^%s") do i = i - 1 end
  local first = byte(s, i) == OPEN
  for _, e in ipairs(edits) do first = first and e[1] ~= last end -- there is one before it already
  edit(edits, last, last - 1, (first and "" or ",") .. member)
end

-- apply makes all edits in one pass. They do not overlap.
local function apply(s, edits)
  for n, e in ipairs(edits) do e.n = n end
  table.sort(edits, function(a, b)
    if a[1] ~= b[1] then return a[1] < b[1] end
    return a.n < b.n -- members put at one place stay in their order
  end)
  local pieces, from = {}, 1
  for _, e in ipairs(edits) do
    pieces[#pieces + 1], pieces[#pieces + 2] = sub(s, from, e[1] - 1), e[3]
    from = e[2] + 1
  end
  pieces[#pieces + 1] = sub(s, from)
  return table.concat(pieces)
end

-- maximum states the most output tokens, as the member that the provider takes.
local function maximum(s, edits, at, limit)
  local value = string.format("%d", limit.max_tokens)
  if limit.max_tokens_name ~= "maxOutputTokens" then
    local where = at[limit.max_tokens_name]
    if where then return edit(edits, where[1], where[2], value) end
    -- What the gateway stated for a model that did not answer.
    where = at[limit.max_tokens_name == "max_tokens" and "max_completion_tokens" or "max_tokens"]
    if where and sub(s, where[1], where[2]) ~= "null" then
      edit(edits, where[3], where[4], limit.max_tokens_name)
      return edit(edits, where[1], where[2], value)
    end
    return insert(s, edits, at.document[1], '"' .. limit.max_tokens_name .. '":' .. value)
  end
  local where, member = at.generationconfig or at.generation_config, '"maxOutputTokens":' .. value
  local stated = at.maxoutputtokens or at.max_output_tokens
  if stated then
    edit(edits, stated[1], stated[2], value)
  elseif not where then
    insert(s, edits, at.document[1], '"generationConfig":{' .. member .. "}")
  elseif byte(s, where[1]) == OPEN then
    insert(s, edits, where[2], member)
  else
    edit(edits, where[1], where[2], "{" .. member .. "}")
  end
end

-- usage asks the provider to tell the usage of a stream, and keeps the other options.
local function usage(s, edits, at)
  local options, stated = at.stream_options, at.include_usage
  if stated then
    edit(edits, stated[1], stated[2], "true")
  elseif not options then
    insert(s, edits, at.document[1], '"stream_options":{"include_usage":true}')
  elseif byte(s, options[1]) == OPEN then
    insert(s, edits, options[2], '"include_usage":true')
  else
    edit(edits, options[1], options[2], '{"include_usage":true}')
  end
end

-- named writes the model's name wherever the body has it; where it has none, only if it must.
local function named(s, edits, at, name, must)
  if at.model then edit(edits, at.model[1], at.model[2], name) end
  local more = at.models or {}
  for i = 1, #more, 2 do edit(edits, more[i], more[i + 1], name) end
  if must and not at.model then insert(s, edits, at.document[1], '"model":' .. name) end
end

-- prepare writes into the body what ratelimit decided, and what the route says of its model.
local function prepare(h)
  local limit = h:streamInfo():dynamicMetadata():get("envoy.filters.http.ratelimit") or {}
  local name = h:filterContext():get("set_model") -- where ratelimit is not asked, or the path has it
  if not (name or limit.set_model or limit.max_tokens or limit.max_tokens_rename or limit.ask_usage) then return end
  local buffer = h:body()
  if not buffer then return end
  local s = buffer:getBytes(0, buffer:length())
  -- Metadata again: body() yields, and objects taken before it die.
  local metadata = h:streamInfo():dynamicMetadata()
  limit = metadata:get("envoy.filters.http.ratelimit") or {}
  local at, edits = places(metadata:get("llm.body").at), {}
  local context = h:filterContext()
  name = limit.set_model or context:get("set_model")
  if name then named(s, edits, at, name, context:get("must_name")) end
  if limit.max_tokens then maximum(s, edits, at, limit) end
  if limit.max_tokens_rename then
    local name = at[limit.max_tokens_rename]
    edit(edits, name[3], name[4], limit.max_tokens_name)
  end
  if limit.ask_usage then usage(s, edits, at) end
  h:headers():replace("content-length", buffer:setBytes(apply(s, edits)))
end

-- What every provider gets. Host, key and the rest of its own are set behind this filter.
local PASS = {
  [":method"] = true, [":path"] = true, [":authority"] = true, [":scheme"] = true, ["content-length"] = true,
  ["content-type"] = true, accept = true, ["user-agent"] = true, traceparent = true,
  ["x-request-id"] = true, ["x-correlation-id"] = true,
}

-- words makes a set of a list with commas, once for each route's text. A word that ends in * is
-- a beginning, and stands in the list of the set.
local sets = {}
local function words(text)
  local set = sets[text]
  if not set then
    set = {}
    for word in gmatch(text, "[^,]+") do
      local beginning = string.match(word, "^(.*)%*$")
      if beginning then set[#set + 1] = beginning else set[word] = true end
    end
    sets[text] = set
  end
  return set
end

-- among tells whether a name is in a set.
local function among(set, name)
  if set[name] then return true end
  for _, beginning in ipairs(set) do
    if sub(name, 1, #beginning) == beginning then return true end
  end
  return false
end

-- query is the path with the parameters alone that may pass, each once: whole ones
-- (alt=sse), or any value of a name.
local function query(path, allowed)
  local mark = find(path, "?", 1, true)
  if not mark then return path end
  local kept, seen = {}, {}
  for pair in gmatch(sub(path, mark + 1), "[^&]+") do
    local name = string.match(pair, "^[^=]*")
    if (allowed[pair] or allowed[name]) and not seen[name] then
      seen[name] = true
      kept[#kept + 1] = pair
    end
  end
  return sub(path, 1, mark - 1) .. (#kept > 0 and "?" .. table.concat(kept, "&") or "")
end

-- strip takes away what may not pass.
local function strip(h)
  local context, headers = h:filterContext(), h:headers()
  local more, drop = words(context:get("headers") or ""), {}
  for name in pairs(headers) do
    if not (PASS[name] or among(more, name)) then drop[#drop + 1] = name end
  end
  for _, name in ipairs(drop) do headers:remove(name) end
  headers:replace("content-type", "application/json") -- the guard took no other
  local path = headers:get(":path")
  local kept = query(path, words(context:get("query") or ""))
  if kept ~= path then headers:replace(":path", kept) end
end

local function outgoing(h)
  strip(h)
  prepare(h)
end

-- An error in a script lets the request pass as it is, so this one ends it instead: a body
-- without its max_tokens may cost more than was held.
function envoy_on_request(h)
  local ok, why = pcall(outgoing, h)
  if not ok then
    h:logErr("splice: " .. tostring(why))
    h:respond({ [":status"] = "500" }, "the body could not be prepared")
  end
end

-- What a provider says to the gateway is not for the caller. One that refuses our key must not
-- look like one that refuses the caller's: an SDK would blame the caller's key, and some
-- providers repeat part of the key they got. A redirect tells where a provider is, and an SDK
-- would follow it past the gateway. After the guard only a provider answers so.
local REFUSED = { "the provider does not accept the gateway's credentials", "provider_credentials" }
local MOVED = { "the provider answered with a redirect, which the gateway does not follow", "provider_redirect" }
local HIDDEN = { ["401"] = REFUSED, ["403"] = REFUSED, ["300"] = MOVED, ["301"] = MOVED, ["302"] = MOVED, ["303"] = MOVED,
  ["305"] = MOVED, ["307"] = MOVED, ["308"] = MOVED }

function envoy_on_response(h)
  local hidden = HIDDEN[h:headers():get(":status")]
  if not hidden then return end
  local metadata = h:streamInfo():dynamicMetadata()
  if not metadata:get("llm.body") then return end
  local told = metadata:get("llm.body")
  local family = told.family
  local text = '{"error":{"message":"' .. hidden[1] .. '","type":"server_error","param":null,"code":"' .. hidden[2] .. '"}}'
  if family == "gemini" then
    text = '{"error":{"code":503,"message":"' .. hidden[1] .. '","status":"UNAVAILABLE"}}'
  elseif family == "anthropic" then
    text = '{"type":"error","error":{"type":"api_error","message":"' .. hidden[1] .. '"},"request_id":"' .. told.id .. '"}'
  end
  local body = h:body(true) -- yields, so the headers are taken after it
  local headers = h:headers()
  headers:replace(":status", "503")
  headers:replace("content-type", "application/json")
  headers:replace("x-should-retry", "false")
  headers:remove("content-encoding")
  headers:remove("www-authenticate")
  headers:remove("location")
  headers:replace("content-length", tostring(body:setBytes(text)))
end
