-- The moves of a run between its states.

-- A queued run at once, a running one at its next renewal (Q8). Touches no lease.
local function cancel(id)
  local state = get(id, 'state')
  if state == 'queued' then
    local machine = get(id, 'machine')
    redis.call('ZREM', key('queue', machine), id)
    redis.call('ZREM', key('delayed', machine), id)
    redis.call('HDEL', key('run', id), 'not_before')
    set(id, 'ended', now)
    move(id, 'cancelled')
    tell('cancelled', id, get(id, 'epoch'), 'while queued')
  elseif state == 'running' and not get(id, 'cancelling') then
    set(id, 'cancelling', 1)
    tell('cancelling', id, get(id, 'epoch'), 'at the next heartbeat')
  end
end

-- The scores of the run's model, as ARGV gives them from `start` on: {evaluation, JSON}...
local function keep_scores(id, start)
  for i = start, #ARGV, 2 do
    redis.call('HSET', key('scores', id), ARGV[i], ARGV[i + 1])
  end
  return (#ARGV - start + 1) / 2
end

local function end_lease(id)
  if redis.call('ZREM', key('leases'), id) == 1 then
    redis.call('HINCRBY', key('run', id), 'held', now - get(id, 'started'))
  end
  redis.call('HDEL', key('run', id), 'deadline', 'length', 'renewed', 'recalled')
end

-- Into a final state, for good (but for retry).
local function settle(id, state, detail)
  end_lease(id)
  move(id, state)
  set(id, 'ended', now)
  redis.call('HDEL', key('run', id), 'cancelling', 'not_before')
  thin_out(id, FINAL_POINTS, 1)
  tell(state, id, get(id, 'epoch'), detail)
end

-- Back to the place it had: at once, or no sooner than `delay` ms from now.
local function requeue(id, delay)
  local machine = get(id, 'machine')
  end_lease(id)
  redis.call('HDEL', key('run', id), 'worker', 'job', 'node')
  move(id, 'queued')
  if delay > 0 then
    redis.call('ZADD', key('delayed', machine), now + delay, id)
    set(id, 'not_before', now + delay)
  else
    redis.call('ZADD', key('queue', machine), get(id, 'score'), id)
  end
end

local function forget_crashes(id)
  redis.call('HDEL', key('run', id), 'crash_step', 'crashes')
end

-- Under its lease the run has got to `step`: beyond the step where it crashed, that was no poison.
local function reach(id, step)
  local last = tonumber(get(id, 'crash_step') or nil)
  if last and tonumber(step) > last then
    forget_crashes(id)
  end
end

-- Its directory knows `epoch`: no lease of the run is below or at that any more, and the next one is above.
local function lift(id, epoch)
  if tonumber(get(id, 'epoch')) >= tonumber(epoch) then
    return
  end
  if get(id, 'cancelling') then
    settle(id, 'cancelled', 'its directory holds epoch ' .. epoch)
  elseif get(id, 'state') == 'running' then
    requeue(id, 0)
    set(id, 'released', 'its directory holds epoch ' .. epoch)
  end
  set(id, 'epoch', epoch)
  remember_move(id)
  tell('lifted', id, epoch, 'its directory holds that epoch')
end
