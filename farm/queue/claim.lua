-- claim: lease the first run that a machine class may train (Q2), after ending every expired lease (Q3).
--
-- KEYS[1] prefix    reads and writes: leases, run, queue, delayed, claim, causes, counts, events
-- ARGV    token, machine class, worker, lease in ms
-- returns {'claimed', id, epoch, deadline, spec, study, checkpoint or false}, {'none'}
--
-- A claim whose reply got lost is repeated with the same token and answered the same.

local token, machine, worker, length = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

sweep()

local given = redis.call('GET', key('claim', token))
if given then
  local epoch, id = given:match('^(%d+) (.+)$')
  if holds(id, epoch) then
    return { 'claimed', id, unpack(redis.call('HMGET', key('run', id), 'epoch', 'deadline', 'spec', 'study', 'checkpoint')) }
  end
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('delayed', machine), '-inf', now)) do
  redis.call('ZREM', key('delayed', machine), id)
  redis.call('ZADD', key('queue', machine), get(id, 'score'), id)
end

local id = redis.call('ZPOPMIN', key('queue', machine))[1]
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
count('queued', -1)
count('running', 1)
redis.call('SET', key('claim', token), epoch .. ' ' .. id, 'PX', length)
tell('claimed', id, epoch, worker)
return { 'claimed', id, whole(epoch), whole(deadline), spec, study, checkpoint }
