-- Leases that run out (Q3), and runs that cannot be read.

local function uptime() -- ms; nil where Redis may not be asked
  local info = redis.pcall('INFO', 'server')
  local seconds = type(info) == 'string' and info:match('uptime_in_seconds:(%d+)')
  return seconds and seconds * 1000
end

-- Whether the lease was not renewed in time. While Redis itself was down none could be, so after a start every one has
-- its own length again. Where Redis does not say since when it is up, a lease has that from when it is first seen late.
local function has_expired(id, deadline, up)
  local length = tonumber(get(id, 'length'))
  if up or deadline >= now then
    return deadline < now and up >= length
  end
  local of, since = (get(id, 'late') or ''):match('^(%d+) (%d+)$')
  if of ~= whole(deadline) then
    set(id, 'late', whole(deadline) .. ' ' .. whole(now))
    return false
  end
  return now - since >= length
end

-- Whether what a lease needs can be counted with.
local function is_sound(id)
  local run = redis.call('HMGET', key('run', id), 'state', 'epoch', 'step', 'score', 'attempts', 'started', 'length')
  local held = run[1] ~= 'running' or (tonumber(run[6] or nil) and tonumber(run[7] or nil))
  return (run[1] == 'queued' or run[1] == 'running') and tonumber(run[2] or nil) and tonumber(run[3] or nil)
    and tonumber(run[4] or nil) and tonumber(run[5] or nil) and held
end

-- Out of the queue and the leases, where it would end the verb that comes across it; failed, if it is there at all.
local function put_aside(id)
  local state = get(id, 'state')
  redis.call('ZREM', key('leases'), id)
  if state == 'queued' or state == 'running' then
    move(id, 'failed')
    set(id, 'ended', now)
    local cause = { cause = 'unreadable', message = 'what Redis holds of it cannot be read', step = 0, retryable = false }
    redis.call('RPUSH', key('causes', id), whole(now) .. ' 0 ' .. cjson.encode(cause))
    tell('failed', id, 0, cause.message)
  end
end

local function expire(id)
  local step = tonumber(get(id, 'step'))
  local worker, node, epoch = get(id, 'worker'), get(id, 'node'), get(id, 'epoch')
  tell('expired', id, epoch, worker)
  if get(id, 'renewed') then
    local where = node and (' on ' .. node) or ''
    local cause = { cause = 'lease-expired', step = step, retryable = true,
      message = 'worker ' .. worker .. where .. ' was not heard from for ' .. get(id, 'length') / 1000 .. ' s' }
    count_failure(id, cause.cause, cjson.encode(cause), step, true, function() return 0 end)
  elseif get(id, 'cancelling') then
    settle(id, 'cancelled', 'its lease expired')
  else -- the dispatcher that claimed it died before the agent was up: that costs a lease, not an attempt
    requeue(id, 0)
    set(id, 'released', worker .. ' claimed it, but no agent started')
  end
end

-- Every lease past its deadline ends; the ids of their runs. What is superseded and final is forgotten.
local function sweep()
  refuse_submitters()
  local expired = {}
  local late = redis.call('ZRANGEBYSCORE', key('leases'), '-inf', '(' .. whole(now), 'WITHSCORES')
  local up = #late > 0 and uptime()
  for i = 1, #late, 2 do
    if not is_sound(late[i]) then
      put_aside(late[i])
    elseif has_expired(late[i], tonumber(late[i + 1]), up) then
      expire(late[i])
      expired[#expired + 1] = late[i]
    end
  end
  for _, id in ipairs(redis.call('ZRANGE', key('superseded'), 0, -1)) do
    local state = get(id, 'state')
    if FINAL[state] then
      erase(id)
    elseif not state then
      redis.call('ZREM', key('superseded'), id)
    end
  end
  return expired
end
