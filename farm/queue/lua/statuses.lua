-- statuses: one run, or all runs, or those of a study, in the order they were put, or what runs, at one instant (Q9).
-- Evaluations are not among the runs: all of them are a list of their own.
--
-- KEYS[1] prefix    reads: order, evaluations, study, leases, run, causes, result
-- ARGV    'one', 'all', 'study', 'running' or 'evaluations'; the run id or the study name; fields of a run, of which each
--         has the first...
-- returns {JSON array per run: id, then those fields, then causes and result}

local which, name = unpack(ARGV)
local ids = { name }
if which ~= 'one' then
  local list = { all = key('order'), study = key('study', name), running = key('leases'),
    evaluations = key('evaluations') }
  ids = redis.call('ZRANGE', list[which], 0, -1)
end

local found = {}
for _, id in ipairs(ids) do
  local run = redis.call('HMGET', key('run', id), unpack(ARGV, 3))
  if run[1] then
    run[#run + 1] = redis.call('LRANGE', key('causes', id), 0, -1)
    run[#run + 1] = redis.call('GET', key('result', id)) or redis.call('GET', key('result', get(id, 'adopted') or ''))
    table.insert(run, 1, id)
    found[#found + 1] = cjson.encode(run)
  end
end
return found
