-- put: queue the runs of a study, all or none; a run that is there already is not queued twice (Q1). What is paused of
-- their corpora is so no longer (Q11).
--
-- KEYS[1] prefix    reads and writes: run, study, arms, studies, order, sequence, counts, queue, classes, events,
--                   paused
-- ARGV    study name, study JSON, number of arms, {arm, identity JSON of its recipe}..., {id, digest, machine, arm,
--         priority, limit, spec JSON, corpus}...
-- returns {'put', state or '' per run in the order given ('' = new)}
--         {'arm', name, identity JSON as it is stored}: the study has that arm already, with another recipe
--         {'run', id}: another run has that id

local name, study, arms = ARGV[1], ARGV[2], tonumber(ARGV[3])
local first, width = 4 + 2 * arms, 8

for i = 4, first - 1, 2 do
  local recipe = redis.call('HGET', key('arms', name), ARGV[i])
  if recipe and recipe ~= ARGV[i + 1] then
    return { 'arm', ARGV[i], recipe }
  end
end
local states, known = {}, {}
for i = first, #ARGV, width do
  local digest, state = unpack(redis.call('HMGET', key('run', ARGV[i]), 'digest', 'state'))
  if digest and digest ~= ARGV[i + 1] then
    return { 'run', ARGV[i] }
  end
  states[#states + 1] = state or ''
  known[ARGV[i]] = state
end

for i = 4, first - 1, 2 do
  redis.call('HSET', key('arms', name), ARGV[i], ARGV[i + 1])
end
redis.call('HSET', key('studies'), name, study)

local members, new, places, sequence = {}, {}, {}, 0
for i = first, #ARGV, width do
  local id, digest, machine, arm, priority, limit, spec, corpus = unpack(ARGV, i, i + width - 1)
  members[#members + 1] = id
  if not known[id] then
    new[#new + 1], known[id] = id, 'queued'
    sequence = redis.call('INCR', key('sequence'))
    local score = sequence - tonumber(priority) * 2 ^ 40 -- exact: 1000 * 2^40 < 2^53
    set(id, 'spec', spec, 'digest', digest, 'machine', machine, 'arm', arm, 'study', name, 'limit', limit,
      'score', score, 'corpus', corpus, 'state', 'queued', 'submitted', now, 'epoch', 0, 'attempts', 0, 'step', 0)
    redis.call('ZADD', key('queue', machine), score, id)
    redis.call('SADD', key('classes'), machine)
    tell('queued', id, 0, name)
  elseif redis.call('HEXISTS', key('studies'), get(id, 'study')) == 0 then -- restored without its study
    set(id, 'study', name)
  end
  places[get(id, 'study') .. ' ' .. corpus] = true
end
resume(places)
if #new > 0 then
  append(key('order'), new, sequence - #new + 1)
  count('queued', #new)
end
append_to_study(name, members)
return { 'put', states }
