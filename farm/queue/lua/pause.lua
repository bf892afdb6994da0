-- pause: what stopped this run would stop every run of its study that reads the same corpus (Q11). It goes back unharmed,
-- and none of them starts, on one node or at all, until the study is put again or one of them is retried.
--
-- KEYS[1] prefix    reads and writes: leases, run, queue, counts, events, paused
-- ARGV    id, epoch, token, reason, Ray node id or '' for everywhere
-- returns {'ok'}, {'lost'} (Q4)
--
-- A call whose reply got lost is repeated with the same token, and answered again.

local id, epoch, token, reason, node = unpack(ARGV)
if not holds(id, epoch) then
  return { get(id, 'closed_by') == token and 'ok' or 'lost' }
end
local place = get(id, 'study') .. ' ' .. get(id, 'corpus')
redis.call('HSET', key('paused'), node == '' and place or place .. ' ' .. node, reason)
set(id, 'closed_by', token)
tell('paused', id, epoch, reason)
if get(id, 'cancelling') then
  settle(id, 'cancelled', 'paused: ' .. reason)
else
  requeue(id, 0)
end
return { 'ok' }
