-- recall: record why the lease is wanted back; its holder is told by other means.
--
-- KEYS[1] prefix    reads and writes: leases, run, events
-- ARGV    id, epoch, reason
-- returns {'ok'}, {'lost'} (Q4)
--
-- The reason is kept for release: the holder knows only that it was asked to stop.

local id, epoch, reason = unpack(ARGV)
if not holds(id, epoch) then
  return { 'lost' }
end
if not get(id, 'recalled') then
  set(id, 'recalled', reason)
  tell('recalled', id, epoch, reason)
end
return { 'ok' }
