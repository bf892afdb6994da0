-- tally: how many of a page of a study's runs are in each state. A page is as things stand at one instant; so are all of
-- them where the number of the last change is the same at the first and at the last (Q9).
--
-- KEYS[1] prefix    reads: study, run, changes
-- ARGV    study; where the page begins, '' for the first one; most runs to look at
-- returns {where the next page begins or '', number of the last change, '', state, count, state, count, ...}

local ids, rest = page_of(key('study', ARGV[1]), ARGV[2], tonumber(ARGV[3]))
local counted = {}
for _, id in ipairs(ids) do
  local state = get(id, 'state')
  if state then
    counted[state] = (counted[state] or 0) + 1
  end
end
local found = { rest, redis.call('GET', key('changes')) or '0', '' }
for state, count in pairs(counted) do
  found[#found + 1] = state
  found[#found + 1] = count
end
return found
