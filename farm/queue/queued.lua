-- queued: how many runs each machine class may claim now; classes without any are left out.
--
-- KEYS[1] prefix    reads: classes, queue, delayed
-- returns {class, count, class, count, ...}

local found = {}
for _, machine in ipairs(redis.call('SMEMBERS', key('classes'))) do
  local due = redis.call('ZCOUNT', key('delayed', machine), '-inf', now)
  local count = redis.call('ZCARD', key('queue', machine)) + due
  if count > 0 then
    found[#found + 1] = machine
    found[#found + 1] = count
  end
end
return found
