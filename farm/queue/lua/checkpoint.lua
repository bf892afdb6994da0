-- checkpoint: point at a newer checkpoint; an older one changes nothing.
--
-- KEYS[1] prefix    reads and writes: leases, run, events
-- ARGV    id, epoch, step, epoch of the checkpoint, checkpoint JSON
-- returns {'ok'}, {'lost'} (Q4)
--
-- At the same step a later epoch's one wins: its writer had found the other damaged.

local id, epoch, step, written = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
if not holds(id, epoch) then
  return { 'lost' }
end
reach(id, step)
local at, by = unpack(redis.call('HMGET', key('run', id), 'checkpoint_step', 'checkpoint_epoch'))
at, by = tonumber(at or -1), tonumber(by or 0)
if step > at or (step == at and written > by) then
  set(id, 'checkpoint', ARGV[5], 'checkpoint_step', step, 'checkpoint_epoch', written)
  if step > tonumber(get(id, 'step')) then
    set(id, 'step', step) -- the holder got so far; its next renewal may never come
  end
  tell('checkpoint', id, epoch, 'step ' .. ARGV[3])
end
return { 'ok' }
