-- note: an event that the holder of a lease wants remembered (Q4).
--
-- KEYS[1] prefix    reads and writes: leases, run, events
-- ARGV    id, epoch, event, detail
-- returns {'ok'}, {'lost'}

local id, epoch, event, detail = unpack(ARGV)
if not holds(id, epoch) then
  return { 'lost' }
end
tell(event, id, epoch, detail)
return { 'ok' }
