-- renew: prolong a lease and note the progress; the first one also says which job and node it is.
--
-- KEYS[1] prefix    reads and writes: leases, run, events
-- ARGV    id, epoch, lease in ms, step, job or '', node or ''
-- returns {'renewed', deadline}, {'cancelled'}: the run is to stop (Q8), {'lost'} (Q4)

local id, epoch, length, step, job, node = unpack(ARGV)
if not holds(id, epoch) then
  return { 'lost' }
end
if get(id, 'cancelling') then
  return { 'cancelled' }
end
if not get(id, 'renewed') then
  tell('started', id, epoch, node ~= '' and node or get(id, 'worker'))
  redis.call('HDEL', key('run', id), 'released')
end
reach(id, step)
local deadline = now + tonumber(length)
redis.call('ZADD', key('leases'), deadline, id)
set(id, 'deadline', deadline, 'length', length, 'step', step, 'renewed', 1)
if job ~= '' then
  set(id, 'job', job)
end
if node ~= '' then
  set(id, 'node', node)
end
return { 'renewed', whole(deadline) }
