-- cancel: a queued run at once, a running one at its next renewal (Q8); a final one stays what it is.
--
-- KEYS[1] prefix    reads and writes: run, queue, delayed, counts, events; does not touch leases
-- ARGV    id
-- returns {'ok', state}, {'missing'}

local id = ARGV[1]
local state = get(id, 'state')
if not state then
  return { 'missing' }
end
if state == 'queued' then
  local machine = get(id, 'machine')
  redis.call('ZREM', key('queue', machine), id)
  redis.call('ZREM', key('delayed', machine), id)
  redis.call('HDEL', key('run', id), 'not_before')
  set(id, 'ended', now)
  move(id, 'cancelled')
  tell('cancelled', id, get(id, 'epoch'), 'while queued')
elseif state == 'running' and not get(id, 'cancelling') then
  set(id, 'cancelling', 1)
  tell('cancelling', id, get(id, 'epoch'), 'at the next heartbeat')
end
return { 'ok', get(id, 'state') }
