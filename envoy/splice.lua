-- The splice: writes what ratelimit decided into the body, and touches no other byte.
-- Members go before the last brace, because parsers take the last of duplicate members,
-- so ours hold.

local byte, find, sub = string.byte, string.find, string.sub
local OPEN, CLOSE = 123, 125

-- append puts members into the object that ends at s[last], which is its brace.
local function append(s, last, members)
  local i = last - 1
  while find(sub(s, i, i), "^%s") do i = i - 1 end
  return sub(s, 1, last - 1) .. (byte(s, i) == OPEN and "" or ",") .. members .. sub(s, last)
end

local function splice(h)
  local limit = h:streamInfo():dynamicMetadata():get("envoy.filters.http.ratelimit")
  if not limit or not (limit.splice or limit.splice_generation) then return end
  local buffer = h:body()
  if not buffer then return end
  local s = buffer:getBytes(0, buffer:length())
  -- Metadata again: body() yields, and objects taken before it die.
  local metadata = h:streamInfo():dynamicMetadata()
  limit = metadata:get("envoy.filters.http.ratelimit")

  local generation = limit.splice_generation
  if generation then
    local at = metadata:get("llm.body") or {}
    local from, to = tonumber(at.generation_from), tonumber(at.generation_to)
    if from and byte(s, from) == OPEN then
      s = append(s, to, generation)
    elseif from then
      s = sub(s, 1, from - 1) .. "{" .. generation .. "}" .. sub(s, to + 1)
    else
      limit.splice = (limit.splice and limit.splice .. "," or "") .. '"generationConfig":{' .. generation .. "}"
    end
  end
  if limit.splice then
    local last = #s
    while last > 0 and byte(s, last) ~= CLOSE do last = last - 1 end
    s = append(s, last, limit.splice)
  end
  h:headers():replace("content-length", buffer:setBytes(s))
end

-- An error in a script lets the request pass as it is, so this one ends it instead: a body
-- without its max_tokens may cost more than was held.
function envoy_on_request(h)
  local ok, why = pcall(splice, h)
  if not ok then
    h:logErr("splice: " .. tostring(why))
    h:respond({ [":status"] = "500" }, "the body could not be prepared")
  end
end

-- A provider that refuses our key must not look like one that refuses the caller's: an SDK
-- would blame the caller's key, and some providers repeat part of the key they got.
-- After the guard only a provider answers 401 or 403.
function envoy_on_response(h)
  local status = h:headers():get(":status")
  if status ~= "401" and status ~= "403" then return end
  local metadata = h:streamInfo():dynamicMetadata()
  if not metadata:get("llm.body") then return end
  local asked = metadata:get("llm.request")
  local text = '{"error":{"code":503,"message":"the provider does not accept the gateway\'s credentials","status":"UNAVAILABLE"}}'
  if asked and asked.model then
    text = '{"error":{"message":"the provider does not accept the gateway\'s credentials","type":"server_error","param":null,"code":"provider_credentials"}}'
  end
  local body = h:body(true) -- yields, so the headers are taken after it
  local headers = h:headers()
  headers:replace(":status", "503")
  headers:replace("content-type", "application/json")
  headers:replace("x-should-retry", "false")
  headers:remove("content-encoding")
  headers:remove("www-authenticate")
  headers:replace("content-length", tostring(body:setBytes(text)))
end
