-- statuses: one run, or all runs, or those of a study, in the order they were put, or what runs, at one instant (Q9).
-- Of all runs also those that are not final, and those that a study pays for, since it submitted them first. Evaluations
-- are not among the runs: all of them are a list of their own.
--
-- KEYS[1] prefix    reads: order, evaluations, study, leases, run, causes, result
-- ARGV    'one', 'all', 'open', 'paid', 'study', 'running' or 'evaluations'; the run id or the study name; fields of a
--         run, of which each has the first...
-- returns {JSON array per run: id, then those fields, then causes and result}

local which, name = unpack(ARGV)
local ids = { name }
if which ~= 'one' then
  local list = { study = key('study', name), running = key('leases'), evaluations = key('evaluations') }
  ids = redis.call('ZRANGE', list[which] or key('order'), 0, -1)
end

local function is_wanted(id)
  return which == 'open' and not FINAL[get(id, 'state')] or which == 'paid' and get(id, 'study') == name
    or which ~= 'open' and which ~= 'paid'
end

local found = {}
for _, id in ipairs(ids) do
  found[#found + 1] = is_wanted(id) and spelled(id, 3, #ARGV) or nil
end
return found
