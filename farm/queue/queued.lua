-- queued: how many runs each machine class may claim now; classes without any are left out, and so are some studies.
--
-- KEYS[1] prefix    reads: classes, queue, delayed, run
-- ARGV    studies to pass over...
-- returns {class, count, class, count, ...}

local held = passed_over(1)

local function counted(ids)
  local total = 0
  for _, id in ipairs(ids) do
    total = total + (held[get(id, 'study')] and 0 or 1)
  end
  return total
end

local function claimable(machine)
  local queue, delayed = key('queue', machine), key('delayed', machine)
  if not next(held) then
    return redis.call('ZCARD', queue) + redis.call('ZCOUNT', delayed, '-inf', now)
  end
  return counted(redis.call('ZRANGE', queue, 0, -1)) + counted(redis.call('ZRANGEBYSCORE', delayed, '-inf', now))
end

local found = {}
for _, machine in ipairs(redis.call('SMEMBERS', key('classes'))) do
  local total = claimable(machine)
  if total > 0 then
    found[#found + 1] = machine
    found[#found + 1] = total
  end
end
return found
