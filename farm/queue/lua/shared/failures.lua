-- What a failed attempt costs (Q6).

-- Three crashes at one step that the training caused are poison; getting further than the last one resets the count, and
-- so does a lease that was taken up and given back.
local function crashes_at(id, step, cause)
  if CIRCUMSTANCES[cause] then
    return 0
  end
  local last = tonumber(get(id, 'crash_step') or -1)
  if step > last then
    set(id, 'crash_step', step, 'crashes', 1)
    return 1
  elseif step == last then
    return redis.call('HINCRBY', key('run', id), 'crashes', 1)
  end
  return 0
end

-- Why there is no sense in another try after that many failures; nil if there is.
local function verdict(step, retryable, crashes, attempts, limit)
  if not retryable then
    return 'not retryable'
  elseif crashes >= POISON then
    return POISON .. ' crashes at step ' .. whole(step)
  elseif attempts >= tonumber(limit) then
    return attempts == 1 and 'the only attempt is spent' or 'all ' .. attempts .. ' attempts are spent'
  end
end

-- An attempt failed for the cause of that name and JSON: cancelled if that was asked for, failed if there is no sense in
-- another try, else queued again. `delay` is a function from attempts spent to ms of back-off.
local function count_failure(id, name, cause, step, retryable, delay)
  redis.call('RPUSH', key('causes', id), whole(now) .. ' ' .. get(id, 'epoch') .. ' ' .. cause)
  reach(id, step)
  redis.call('HDEL', key('run', id), 'released')
  local attempts = redis.call('HINCRBY', key('run', id), 'attempts', 1)
  local final = verdict(step, retryable, crashes_at(id, step, name), attempts, get(id, 'limit'))
  if get(id, 'cancelling') then
    settle(id, 'cancelled', 'failed while being cancelled')
  elseif final then
    settle(id, 'failed', final)
  else
    requeue(id, delay(attempts))
    tell('requeued', id, get(id, 'epoch'), 'attempt ' .. attempts .. ' of ' .. get(id, 'limit') .. ' failed')
  end
end
