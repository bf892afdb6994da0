-- waited_for: the machine classes that queued runs wait for, also those that back off, or that may not start.
--
-- KEYS[1] prefix    reads: classes, queue, delayed
-- returns {class, ...}

local found = {}
for _, machine in ipairs(redis.call('SMEMBERS', key('classes'))) do
  if redis.call('ZCARD', key('queue', machine)) + redis.call('ZCARD', key('delayed', machine)) > 0 then
    found[#found + 1] = machine
  end
end
return found
