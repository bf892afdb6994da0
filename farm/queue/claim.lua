-- claim: lease the first run that a machine class may train (Q2), after ending every expired lease (Q3).
--
-- KEYS[1] prefix    reads and writes: leases, run, queue, delayed, claim, causes, counts, events, drained
-- ARGV    token, machine class, worker, lease in ms, Ray node id or ''
-- returns {'claimed', id, epoch, deadline, spec, study, checkpoint or false}, {'none'}: also for a drained node
--
-- A claim whose reply got lost is repeated with the same token and answered the same.

local token, machine, worker, length, node = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]

local function answer(id)
  local run = redis.call('HMGET', key('run', id), 'epoch', 'deadline', 'spec', 'study', 'checkpoint')
  return { 'claimed', id, unpack(run) }
end

sweep()

local given = redis.call('GET', key('claim', token))
if given then
  local epoch, id = given:match('^(%d+) (.+)$')
  if holds(id, epoch) then
    return answer(id)
  end
end

if redis.call('HEXISTS', key('drained'), node) == 1 then
  return { 'none' }
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('delayed', machine), '-inf', now)) do
  redis.call('ZREM', key('delayed', machine), id)
  redis.call('ZADD', key('queue', machine), get(id, 'score'), id)
end

local id = redis.call('ZRANGE', key('queue', machine), 0, 0)[1]
if not id then
  return { 'none' }
end
local epoch = redis.call('HINCRBY', key('run', id), 'epoch', 1)
redis.call('ZREM', key('queue', machine), id)
redis.call('ZADD', key('leases'), now + length, id)
redis.call('HDEL', key('run', id), 'not_before')
set(id, 'deadline', now + length, 'length', length, 'worker', worker, 'started', now)
if node ~= '' then
  set(id, 'node', node)
end
move(id, 'running')
redis.call('SET', key('claim', token), epoch .. ' ' .. id, 'PX', length)
tell('claimed', id, epoch, worker)
return answer(id)
