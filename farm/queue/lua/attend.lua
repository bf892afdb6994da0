-- attend: a dispatcher is there, and will have said so again before a while is over; 0: it has gone.
--
-- KEYS[1] prefix    reads and writes: dispatchers
-- ARGV    its name, ms
-- returns 'ok'

refuse_submitters()
local name, length = ARGV[1], tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', key('dispatchers'), '-inf', now - 86400000)
if length > 0 then
  redis.call('ZADD', key('dispatchers'), now + length, name)
else
  redis.call('ZREM', key('dispatchers'), name)
end
return 'ok'
