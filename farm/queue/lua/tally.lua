-- tally: how many runs of a study are in each state, at one instant (Q9).
--
-- KEYS[1] prefix    reads: study, run
-- ARGV    study
-- returns {state, count, state, count, ...}

local counted = {}
for _, id in ipairs(redis.call('ZRANGE', key('study', ARGV[1]), 0, -1)) do
  local state = get(id, 'state')
  if state then
    counted[state] = (counted[state] or 0) + 1
  end
end
local found = {}
for state, count in pairs(counted) do
  found[#found + 1] = state
  found[#found + 1] = count
end
return found
