-- evaluate: have models scored that were trained: a job for each run and evaluation, however often it is asked for. One
-- that is final, whose score is wanted again, is queued again with all its attempts; one that is under way stays.
--
-- KEYS[1] prefix    reads and writes: run, evaluations, sequence, counts, queue, classes, events, result, forgotten
-- ARGV    study, {id, of, machine, arm, priority, limit, spec JSON, corpus}...
-- returns {'ok', {state before, or '' where it is new; in the order given}}, or {'missing', id of a run that has not succeeded}

refuse_submitters()
local study, width, states = ARGV[1], 8, {}
for i = 2, #ARGV, width do
  if get(ARGV[i + 1], 'state') ~= 'succeeded' then
    return { 'missing', ARGV[i + 1] }
  end
end
for i = 2, #ARGV, width do
  local id, of, machine, arm, priority, limit, spec, corpus = unpack(ARGV, i, i + width - 1)
  local state = get(id, 'state')
  states[#states + 1] = state or ''
  if not state then
    local sequence = redis.call('INCR', key('sequence'))
    redis.call('ZADD', key('evaluations'), sequence, id)
    set(id, 'of', of, 'score', insertion_score(sequence, priority), 'submitted', now, 'step', 0,
      'epoch', redis.call('HGET', key('forgotten'), id) or 0, 'state', 'queued')
    redis.call('HDEL', key('forgotten'), id)
    set(of, 'evaluations', (get(of, 'evaluations') or '') .. ' ' .. id)
    count(id, 'put', 1)
    count(id, 'queued', 1)
    remember_move('*')
  elseif FINAL[state] then
    redis.call('HDEL', key('run', id), 'crash_step', 'crashes', 'ended', 'released', 'worker', 'job', 'node', 'renewed')
    redis.call('DEL', key('result', id))
    move(id, 'queued')
  end
  if not state or FINAL[state] then
    set(id, 'machine', machine, 'arm', arm, 'study', study, 'limit', limit, 'spec', spec, 'corpus', corpus, 'attempts', 0)
    redis.call('SADD', key('classes'), machine)
    redis.call('ZADD', key('queue', machine), get(id, 'score'), id)
    tell('queued', id, get(id, 'epoch'), study)
  end
end
return { 'ok', states }
