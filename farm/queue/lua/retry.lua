-- retry: queue a failed or cancelled run again, in the place it had, with all attempts; its causes are kept. Where its
-- corpus is paused, that is over (Q11).
--
-- KEYS[1] prefix    reads and writes: leases, run, queue, counts, events, paused; reads: superseded
-- ARGV    id
-- returns {'ok', state}: queued or running already is fine, {'conflict', state}: it succeeded or is being cancelled,
--         {'superseded'}: its arm has another recipe now, {'missing'}

refuse_submitters()
local id = ARGV[1]
local state = get(id, 'state')
if not state then
  return { 'missing' }
end
if redis.call('ZSCORE', key('superseded'), id) then
  return { 'superseded' }
end
if state == 'succeeded' or get(id, 'cancelling') then
  return { 'conflict', state }
end
resume({ [get(id, 'study') .. ' ' .. get(id, 'corpus')] = true })
if state == 'failed' or state == 'cancelled' then
  set(id, 'attempts', 0)
  redis.call('HDEL', key('run', id), 'crash_step', 'crashes', 'ended')
  requeue(id, 0)
  tell('retried', id, get(id, 'epoch'), 'was ' .. state)
end
return { 'ok', get(id, 'state') }
