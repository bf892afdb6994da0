-- cancel: a queued run at once, a running one at its next renewal (Q8); a final one stays what it is.
--
-- KEYS[1] prefix    reads and writes: run, queue, delayed, counts, events; does not touch leases
-- ARGV    id
-- returns {'ok', state}, {'missing'}

refuse_submitters()
local id = ARGV[1]
if not get(id, 'state') then
  return { 'missing' }
end
cancel(id)
return { 'ok', get(id, 'state') }
