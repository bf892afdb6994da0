-- newest: the studies that submitted runs, by the last of them, newest first.
--
-- KEYS[1] prefix    reads: studies, study, order, run
-- returns {study, ...}

-- The place of the last run that it was the first to submit: of what it shares with others one is enough to look at.
local function last_place(study)
  local list = key('study', study)
  local from, last = 0, 0
  while from < redis.call('ZCARD', list) do
    for _, id in ipairs(redis.call('ZREVRANGE', list, from, last)) do
      if get(id, 'study') == study then
        return tonumber(redis.call('ZSCORE', key('order'), id) or nil)
      end
    end
    from, last = last + 1, last + 100
  end
end

local places, found = {}, {}
for _, study in ipairs(redis.call('HKEYS', key('studies'))) do
  places[study] = last_place(study)
  if places[study] then
    found[#found + 1] = study
  end
end
table.sort(found, function(one, other) return places[one] > places[other] end)
return found
