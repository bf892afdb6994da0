-- restore: bring back a run from its directory. One that the queue knows is left alone, unless it knows less than the
-- directory: an epoch below, or no result. Its failures are counted again: a queued one has failed if they say so. After a
-- failure that was final a later attempt shows that it was retried.
--
-- KEYS[1] prefix    reads and writes: run, study, order, unfinished, ids, sequence, counts, queue, delayed, leases, classes,
--                   result, causes, events, digests, forgotten
-- ARGV    id, digest, machine, arm, priority, limit, spec JSON, corpus, steps, study, state, epoch, step, ms under leases,
--         checkpoint JSON or '', its step, its epoch, result JSON or '', its tokens a second or '', its losses or '',
--         causes, as causes:<id> has them, with 'released' for the JSON of an attempt that was given back...
-- returns 1 if it was brought back, 0 if all of it was there

refuse_submitters()
local id, digest, machine, arm, priority, limit, spec, corpus, steps, study, state, epoch, step, held =
  unpack(ARGV, 1, 14)
local checkpoint, checkpoint_step, checkpoint_epoch, result, speed, losses = unpack(ARGV, 15, 20)
local known, its_epoch = unpack(redis.call('HMGET', key('run', id), 'state', 'epoch'))

local function is_behind()
  return tonumber(its_epoch) < tonumber(epoch) or (result ~= '' and (known == 'queued' or known == 'failed'))
end

if known and not is_behind() then
  return 0
end
if known == 'succeeded' or known == 'cancelled' or (known and get(id, 'cancelling')) then
  lift(id, epoch) -- what was said of it since stays
  return 1
end

redis.call('DEL', key('causes', id))
forget_crashes(id)
local attempts, final = 0, nil
for i = 21, #ARGV do
  local of, text = ARGV[i]:match('^%d+ (%d+) (.+)$')
  if text == 'released' then
    forget_crashes(id)
  else
    local cause = cjson.decode(text)
    redis.call('RPUSH', key('causes', id), ARGV[i])
    attempts = attempts + 1
    reach(id, cause.step)
    final = verdict(cause.step, cause.retryable, crashes_at(id, cause.step, cause.cause), attempts, limit)
    if final and tonumber(of) < tonumber(epoch) then
      attempts, final = 0, nil
      forget_crashes(id)
    end
  end
end
if final and state == 'queued' then
  state = 'failed'
end

if known then
  end_lease(id)
  redis.call('HDEL', key('run', id), 'not_before', 'ended', 'worker', 'job', 'node', 'released', 'renewed')
  redis.call('ZREM', key('queue', machine), id)
  redis.call('ZREM', key('delayed', machine), id)
  move(id, state)
  epoch = whole(math.max(tonumber(epoch), tonumber(its_epoch)))
else
  local sequence = redis.call('INCR', key('sequence'))
  set(id, 'spec', spec, 'digest', digest, 'corpus', corpus, 'machine', machine, 'arm', arm, 'study', study,
    'limit', limit, 'steps', steps, 'score', insertion_score(sequence, priority), 'state', state, 'submitted', now)
  count(id, state, 1)
  remember_move('*')
  redis.call('ZADD', key('order'), sequence, id)
  redis.call('ZADD', key('ids'), 0, id)
  list_unfinished(id, state)
  append_to_study(study, { id })
  redis.call('SADD', key('classes'), machine)
  add_alike(digest, id)
  redis.call('HDEL', key('forgotten'), id)
end
set(id, 'epoch', epoch, 'attempts', attempts, 'step', step, 'held', held)
if state == 'queued' then
  redis.call('ZADD', key('queue', machine), get(id, 'score'), id)
else
  set(id, 'ended', now)
end
if checkpoint ~= '' then
  set(id, 'checkpoint', checkpoint, 'checkpoint_step', checkpoint_step, 'checkpoint_epoch', checkpoint_epoch)
end
if result ~= '' then
  redis.call('SET', key('result', id), result)
  set(id, 'speed', speed, 'losses', losses)
end
tell('restored', id, epoch, state)
return 1
