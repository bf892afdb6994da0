-- put: queue the runs of a study, all or none; a run that is there already is not queued twice (Q1).
--
-- An arm may have another recipe than before while none of its runs in the study has a result. Its old runs leave the
-- study then; those that no other study has are superseded: queued ones are cancelled, running ones at their next
-- renewal, and a sweep forgets them. A new run whose digest has a result under another name adopts that, and never trains.
-- What is paused of the corpora of these runs is so no longer (Q11).
--
-- KEYS[1] prefix    reads and writes: run, study, arms, studies, order, unfinished, ids, sequence, counts, queue, delayed,
--                   classes, events, digests, superseded, forgotten, paused; reads: result
-- ARGV    'put', or 'preview': nothing is written; study name, study JSON; '*', or the SHA-1 of the study's JSON that this
--         one was made from, '' for none; number of arms, {arm, identity JSON of its recipe}..., {id, digest, machine,
--         arm, priority, limit, spec JSON, corpus, steps}...
-- returns {'put', states, replaced, again, adopted, twins}: state or '' per run in the order given ('' = new); {id,
--         arm, ...} of the old runs of arms that have another recipe now; ids of new runs that were forgotten before; {id,
--         id of the run that holds its result, ...}; {id, id of a run of the same digest that is queued or running, ...}
--         {'arm', name, identity JSON as it is stored, ...}: the study has results of these arms with another recipe
--         {'run', id}: another run has that id
--         {'changed'}: the study is another than the one that this was made from, and than this

local mode, name, study, since, arms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local first, width = 6 + 2 * arms, 9

local kept = redis.call('HGET', key('studies'), name)
if since ~= '*' and kept ~= study and (kept and redis.sha1hex(kept) or '') ~= since then
  return { 'changed' }
end

local given = {}
for i = first, #ARGV, width do
  given[ARGV[i]] = true
end

-- The runs of the study whose arm has another recipe now; and the arms that must not, for they have results.
local function outdated()
  local changed, old, finished, refused = {}, {}, {}, { 'arm' } -- old: id, arm, id, arm...
  for i = 6, first - 1, 2 do
    local recipe = redis.call('HGET', key('arms', name), ARGV[i])
    changed[ARGV[i]] = recipe ~= ARGV[i + 1] and recipe or nil
  end
  for _, id in ipairs(next(changed) and redis.call('ZRANGE', key('study', name), 0, -1) or {}) do
    local arm, state = unpack(redis.call('HMGET', key('run', id), 'arm', 'state'))
    if changed[arm] and not given[id] then
      old[#old + 1] = id
      old[#old + 1] = arm
      finished[arm] = finished[arm] or state == 'succeeded'
    end
  end
  for i = 6, first - 1, 2 do
    if finished[ARGV[i]] then
      refused[#refused + 1] = ARGV[i]
      refused[#refused + 1] = changed[ARGV[i]]
    end
  end
  return old, refused
end

-- The run that holds the result of that digest, and one of it that is queued or running.
local function counterparts(digest, gone)
  local holder, twin
  for _, other in ipairs(alike(digest)) do
    local state, its = unpack(redis.call('HMGET', key('run', other), 'state', 'digest'))
    if its == digest and state == 'succeeded' then
      holder = redis.call('EXISTS', key('result', other)) == 1 and other or get(other, 'adopted')
    elseif its == digest and not FINAL[state] and not gone[other] then
      twin = other
    end
  end
  return holder or nil, twin
end

local old, refused = outdated()
if #refused > 1 then
  return refused
end
local leaving, gone = {}, {}
for i = 1, #old, 2 do
  leaving[#leaving + 1] = old[i]
end
local others = elsewhere(name, leaving)
for _, id in ipairs(leaving) do
  gone[id] = not others[id]
end

local states, again, adopted, twins = {}, {}, {}, {}
local known, revived, holders = {}, {}, {}
for i = first, #ARGV, width do
  local id, digest = ARGV[i], ARGV[i + 1]
  local its, state = unpack(redis.call('HMGET', key('run', id), 'digest', 'state'))
  if its and its ~= digest then
    return { 'run', id }
  end
  known[id] = state
  if FINAL[state] and redis.call('ZSCORE', key('superseded'), id) then
    revived[id], state = true, nil
  elseif not state then
    local holder, twin = counterparts(digest, gone)
    holders[id] = holder
    if holder then
      adopted[#adopted + 1] = id
      adopted[#adopted + 1] = holder
    elseif twin then
      twins[#twins + 1] = id
      twins[#twins + 1] = twin
    end
    if not holder and redis.call('HEXISTS', key('forgotten'), id) == 1 then
      again[#again + 1] = id
    end
  end
  states[#states + 1] = state or ''
end
local answer = { 'put', states, old, again, adopted, twins }
if mode == 'preview' then
  return answer
end
refuse_submitters()

for _, id in ipairs(leaving) do
  if not leave_study(id, name, others) then
    cancel(id)
    redis.call('ZADD', key('superseded'), now, id)
    tell('superseded', id, get(id, 'epoch'), 'its arm has another recipe now')
  end
end
for i = 6, first - 1, 2 do
  redis.call('HSET', key('arms', name), ARGV[i], ARGV[i + 1])
end
redis.call('HSET', key('studies'), name, study)

local members, new, places, sequence, queued = {}, {}, {}, 0, 0
for i = first, #ARGV, width do
  local id, digest, machine, arm, priority, limit, spec, corpus, steps = unpack(ARGV, i, i + width - 1)
  members[#members + 1] = id
  if not known[id] then
    new[#new + 1] = id
    sequence = redis.call('INCR', key('sequence'))
    local score = insertion_score(sequence, priority)
    local epoch = redis.call('HGET', key('forgotten'), id) or 0
    set(id, 'spec', spec, 'digest', digest, 'machine', machine, 'arm', arm, 'study', name, 'limit', limit,
      'score', score, 'corpus', corpus, 'steps', steps, 'state', 'queued', 'submitted', now, 'epoch', epoch,
      'attempts', 0, 'step', 0)
    redis.call('HDEL', key('forgotten'), id)
    redis.call('SADD', key('classes'), machine)
    redis.call('ZADD', key('ids'), 0, id)
    add_alike(digest, id)
    if holders[id] then
      set(id, 'state', 'succeeded', 'adopted', holders[id], 'step', get(holders[id], 'step'), 'ended', now,
        'losses', get(holders[id], 'losses') or '')
      tell('adopted', id, epoch, 'the result of ' .. holders[id])
    else
      redis.call('ZADD', key('queue', machine), score, id)
      redis.call('ZADD', key('unfinished'), sequence, id)
      queued = queued + 1
      tell('queued', id, epoch, name)
    end
  elseif revived[id] then
    redis.call('HDEL', key('run', id), 'crash_step', 'crashes', 'ended', 'released')
    set(id, 'attempts', 0, 'study', name)
    move(id, 'queued')
    redis.call('ZADD', key('queue', machine), get(id, 'score'), id)
    tell('queued', id, get(id, 'epoch'), name)
  elseif redis.call('HEXISTS', key('studies'), get(id, 'study')) == 0 or redis.call('ZSCORE', key('superseded'), id) then
    set(id, 'study', name) -- restored without its study, or still being cancelled since another recipe was submitted
  end
  redis.call('ZREM', key('superseded'), id)
  places[get(id, 'study') .. ' ' .. corpus] = true
end
resume(places)
if #new > 0 then
  append(key('order'), new, sequence - #new + 1)
  count(new[1], 'queued', queued)
  count(new[1], 'succeeded', #new - queued)
end
append_to_study(name, members)
remember_move('*')
return answer
