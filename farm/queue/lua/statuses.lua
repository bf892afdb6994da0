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
  local run = is_wanted(id) and redis.call('HMGET', key('run', id), unpack(ARGV, 3))
  if run and run[1] then
    run[#run + 1] = redis.call('LRANGE', key('causes', id), 0, -1)
    run[#run + 1] = redis.call('GET', key('result', id)) or redis.call('GET', key('result', get(id, 'adopted') or ''))
    table.insert(run, 1, id)
    found[#found + 1] = cjson.encode(run)
  end
end
return found
