-- claim: lease the first run that a machine class may train (Q2), after ending every expired lease (Q3).
-- The runs of some studies are passed over, and those whose corpus is paused (Q11); they keep their places.
--
-- KEYS[1] prefix    reads and writes: leases, run, queue, delayed, claim, causes, counts, events, drained,
--                   resting, paused, storage
-- ARGV    token, machine class, worker, lease in ms, Ray node ids joined by '+' or '', marker of the storage whose index
--         this Redis is to be or '', studies to pass over...
-- returns {'claimed', id, epoch, deadline, spec, study, checkpoint or false}, {'none'}: also for a drained or resting node,
--         and where this Redis is no index of that storage: then its runs may have epochs that it knows nothing of
--
-- A claim whose reply got lost is repeated with the same token and answered the same.

local token, machine, worker, length, node = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]

local function take(queue, is_barred)
  if not is_barred then
    local id = redis.call('ZPOPMIN', queue)[1]
    while id and not is_sound(id) do -- an id that was never put, or a run that was tampered with
      put_aside(id)
      id = redis.call('ZPOPMIN', queue)[1]
    end
    return id
  end
  for _, id in ipairs(redis.call('ZRANGE', queue, 0, -1)) do
    if not is_sound(id) then
      redis.call('ZREM', queue, id)
      put_aside(id)
    elseif not is_barred(id) then
      redis.call('ZREM', queue, id)
      return id
    end
  end
end

sweep()

local given = redis.call('GET', key('claim', token))
if given then
  local epoch, id = given:match('^(%d+) (.+)$')
  if holds(id, epoch) then
    return { 'claimed', id, unpack(redis.call('HMGET', key('run', id), 'epoch', 'deadline', 'spec', 'study', 'checkpoint')) }
  end
end

if ARGV[6] ~= '' and redis.call('HGET', key('storage'), 'marker') ~= ARGV[6] then
  return { 'none' }
end

for each in node:gmatch('[^+]+') do
  if redis.call('HEXISTS', key('drained'), each) == 1 or redis.call('EXISTS', key('resting', each)) == 1 then
    return { 'none' }
  end
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('delayed', machine), '-inf', now)) do
  redis.call('ZREM', key('delayed', machine), id)
  if is_sound(id) then
    redis.call('ZADD', key('queue', machine), get(id, 'score'), id)
  else
    put_aside(id)
  end
end

local id = take(key('queue', machine), barred(7, node))
if not id then
  return { 'none' }
end
local epoch, spec, study, checkpoint, delayed =
  unpack(redis.call('HMGET', key('run', id), 'epoch', 'spec', 'study', 'checkpoint', 'not_before'))
epoch = epoch + 1
local deadline = now + length
redis.call('ZADD', key('leases'), deadline, id)
if delayed then
  redis.call('HDEL', key('run', id), 'not_before')
end
set(id, 'epoch', epoch, 'deadline', deadline, 'length', length, 'worker', worker, 'started', now, 'state', 'running')
if node ~= '' then
  set(id, 'node', node)
end
count(id, 'queued', -1)
count(id, 'running', 1)
remember_move(id)
redis.call('SET', key('claim', token), epoch .. ' ' .. id, 'PX', length)
tell('claimed', id, epoch, worker)
return { 'claimed', id, whole(epoch), whole(deadline), spec, study, checkpoint }
