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

function envoy_on_request(h)
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
