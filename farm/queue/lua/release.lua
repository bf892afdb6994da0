-- release: give the run back unharmed, to the place it had; no attempt is counted (Q7).
-- Where an agent had taken it up, the count of crashes starts again (Q6).
--
-- KEYS[1] prefix    reads and writes: leases, run, queue, counts, events
-- ARGV    id, epoch, token, reason, unless the lease was recalled for another, an epoch that its directory holds or
--         0, '1' if not once an agent has taken it up
-- returns {'ok', reason}, {'lost'} (Q4)
--
-- A call whose reply got lost is repeated with the same token, and answered again.

local id, epoch, token, reason, above, is_for_silent = unpack(ARGV)
if not holds(id, epoch) then
  return { get(id, 'closed_by') == token and 'ok' or 'lost', get(id, 'released') or reason }
end
if is_for_silent == '1' and get(id, 'renewed') then
  return { 'lost' }
end
reason = get(id, 'recalled') or reason
set(id, 'closed_by', token)
if get(id, 'renewed') then
  forget_crashes(id)
end
if get(id, 'cancelling') then
  settle(id, 'cancelled', 'released: ' .. reason)
else
  requeue(id, 0)
  set(id, 'released', reason)
  tell('released', id, epoch, reason)
end
lift(id, above)
return { 'ok', reason }
