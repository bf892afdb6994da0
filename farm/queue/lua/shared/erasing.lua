-- How a run or an evaluation goes, and what of it is left.

-- Gone, but for its last epoch; an agent that scores that model has lost its lease.
local function erase_evaluation(id)
  local state, machine, epoch = unpack(redis.call('HMGET', key('run', id), 'state', 'machine', 'epoch'))
  redis.call('HSET', key('forgotten'), id, epoch)
  redis.call('ZREM', key('evaluations'), id)
  redis.call('ZREM', key('queue', machine), id)
  redis.call('ZREM', key('delayed', machine), id)
  redis.call('ZREM', key('leases'), id)
  redis.call('DEL', key('run', id), key('causes', id), key('result', id), key('events', id))
  count(id, state, -1)
  count(id, 'forgotten', 1)
  remember_move('*')
end

-- Gone, but for its last epoch, and for its result where others have adopted that. Its model is not scored any more.
local function erase(id)
  if is_evaluation(id) then
    return erase_evaluation(id)
  end
  for job in (get(id, 'evaluations') or ''):gmatch('%S+') do
    if get(job, 'state') then
      erase_evaluation(job)
    end
  end
  local state, digest, epoch, study = unpack(redis.call('HMGET', key('run', id), 'state', 'digest', 'epoch', 'study'))
  local rest, result = {}, redis.call('GET', key('result', id))
  for _, other in ipairs(alike(digest)) do
    if other ~= id then
      rest[#rest + 1] = other
    end
    if result and get(other, 'adopted') == id then
      redis.call('SET', key('result', other), result)
      set(other, 'speed', get(id, 'speed') or '')
      for _, evaluation in ipairs(redis.call('HKEYS', key('scores', id))) do
        redis.call('HSET', key('scores', other), evaluation, redis.call('HGET', key('scores', id), evaluation))
      end
      redis.call('HDEL', key('run', other), 'adopted')
    end
  end
  remember_alike(digest, rest)
  redis.call('HSET', key('forgotten'), id, epoch)
  redis.call('ZREM', key('study', study), id)
  redis.call('ZREM', key('order'), id)
  redis.call('ZREM', key('ids'), id)
  redis.call('ZREM', key('superseded'), id)
  redis.call('DEL', key('run', id), key('causes', id), key('result', id), key('scores', id), key('curve', id),
    key('events', id))
  count(id, state, -1)
  count(id, 'forgotten', 1)
  remember_move('*')
end
