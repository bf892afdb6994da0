-- acknowledge_cancel: the agent has stopped a run that is to be cancelled (Q8).
--
-- KEYS[1] prefix    reads and writes: leases, run, counts, events
-- ARGV    id, epoch
-- returns {'ok'}; also when it is repeated, {'conflict'}: it was not cancelled, {'lost'} (Q4)

local id, epoch = unpack(ARGV)
if not holds(id, epoch) then
  return { get(id, 'epoch') == epoch and get(id, 'state') == 'cancelled' and 'ok' or 'lost' }
end
if not get(id, 'cancelling') then
  return { 'conflict' }
end
settle(id, 'cancelled', 'stopped by its worker')
return { 'ok' }
