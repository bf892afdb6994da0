-- omit: a run stays out, but its directory knows epochs of it: put, it begins above them. One that is there stays, and
--       goes on above them.
--
-- KEYS[1] prefix    reads and writes: forgotten, run, leases, queue, counts, events
-- ARGV    id, its last epoch
-- returns 1 if that is news, else 0

refuse_submitters()
local id, epoch = unpack(ARGV)
if get(id, 'state') then
  lift(id, epoch)
  return 0
end
local known = tonumber(redis.call('HGET', key('forgotten'), id) or -1)
if known >= tonumber(epoch) then
  return 0
end
redis.call('HSET', key('forgotten'), id, epoch)
return known < 0 and 1 or 0
