-- restore: bring back a run from its directory; one that the queue knows is left alone. Its failures are counted anew: a
-- queued one has failed if they say so. After a failure that was final a later attempt tells that somebody retried it.
--
-- KEYS[1] prefix    reads and writes: run, study, order, sequence, counts, queue, classes, result, causes, events,
--                   digests, forgotten
-- ARGV    id, digest, machine, arm, priority, limit, spec JSON, corpus, study, state, epoch, step, ms under leases,
--         checkpoint JSON or '', its step, its epoch, result JSON or '', causes...
-- returns 1 if it was brought back, 0 if it was there

refuse_submitters()
local id, digest, machine, arm, priority, limit, spec, corpus, study, state, epoch, step, held =
  unpack(ARGV, 1, 13)
local checkpoint, checkpoint_step, checkpoint_epoch, result = unpack(ARGV, 14, 17)
if get(id, 'state') then
  return 0
end
local attempts, final = 0, nil
for i = 18, #ARGV do
  local of, text = ARGV[i]:match('^%d+ (%d+) (.+)$')
  local cause = cjson.decode(text)
  redis.call('RPUSH', key('causes', id), ARGV[i])
  attempts = attempts + 1
  final = verdict(cause.step, cause.retryable, crashes_at(id, cause.step, cause.cause), attempts, limit)
  if final and tonumber(of) < tonumber(epoch) then
    attempts, final = 0, nil
    redis.call('HDEL', key('run', id), 'crash_step', 'crashes')
  end
end
if final and state == 'queued' then
  state = 'failed'
end
local sequence = redis.call('INCR', key('sequence'))
local score = sequence - tonumber(priority) * 2 ^ 40
set(id, 'spec', spec, 'digest', digest, 'corpus', corpus, 'machine', machine, 'arm', arm, 'study', study, 'limit', limit,
  'score', score, 'state', state, 'submitted', now, 'epoch', epoch, 'attempts', attempts, 'step', step,
  'held', held)
count(state, 1)
redis.call('ZADD', key('order'), sequence, id)
append_to_study(study, { id })
redis.call('SADD', key('classes'), machine)
add_alike(digest, id)
redis.call('HDEL', key('forgotten'), id)
if state == 'queued' then
  redis.call('ZADD', key('queue', machine), score, id)
else
  set(id, 'ended', now)
end
if checkpoint ~= '' then
  set(id, 'checkpoint', checkpoint, 'checkpoint_step', checkpoint_step, 'checkpoint_epoch', checkpoint_epoch)
end
if result ~= '' then
  redis.call('SET', key('result', id), result)
end
tell('restored', id, epoch, state)
return 1
