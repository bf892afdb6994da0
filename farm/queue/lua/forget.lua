-- forget: take final runs out of a study; those that no other study has are gone, and so is a study without runs. All of
-- them or none. Records below the storage stay as they are.
--
-- KEYS[1] prefix    reads and writes: run, study, studies, arms, order, ids, counts, causes, result, curve, events, digests,
--                   superseded, forgotten, paused
-- ARGV    study, or '' for the one that has the run; run ids...
-- returns {'ok', {id, epoch, ...} of those that are gone, {id, ...} of those that another study has}
--         {'open', id, ...}: queued or running, and in no other study
--         {'shared', study, ...}: '' was said, and these have the run
--         {'missing', id}

refuse_submitters()
local study, ids = ARGV[1], {}
for i = 2, #ARGV do -- Lua passes 8,000 values at most
  ids[#ids + 1] = ARGV[i]
  if not get(ARGV[i], 'state') then
    return { 'missing', ARGV[i] }
  end
end
if study == '' then
  local found = { 'shared' }
  for _, name in ipairs(redis.call('HKEYS', key('studies'))) do
    if redis.call('ZSCORE', key('study', name), ids[1]) then
      found[#found + 1] = name
    end
  end
  if #found > 2 then
    return found
  end
  study = found[2] or get(ids[1], 'study')
end

local others, open = elsewhere(study, ids), { 'open' }
for _, id in ipairs(ids) do
  local state = get(id, 'state')
  if (state == 'queued' or state == 'running') and not others[id] then
    open[#open + 1] = id
  end
end
if #open > 1 then
  return open
end

local gone, kept = {}, {}
for _, id in ipairs(ids) do
  if leave_study(id, study, others) then
    kept[#kept + 1] = id
  else
    gone[#gone + 1] = id
    gone[#gone + 1] = get(id, 'epoch')
    erase(id)
  end
end

remember_move('*')
local left, arms = redis.call('ZRANGE', key('study', study), 0, -1), {}
for _, id in ipairs(left) do
  arms[get(id, 'arm')] = true
end
for _, arm in ipairs(redis.call('HKEYS', key('arms', study))) do
  if not arms[arm] then
    redis.call('HDEL', key('arms', study), arm)
  end
end
if #left == 0 then
  redis.call('HDEL', key('studies'), study)
  for _, place in ipairs(redis.call('HKEYS', key('paused'))) do
    if place:match('^%S+') == study then
      redis.call('HDEL', key('paused'), place)
    end
  end
end
return { 'ok', gone, kept }
