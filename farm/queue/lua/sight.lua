-- sight: a dispatcher sees these nodes, and will have looked again before their sightings end. Those not seen
-- for a day are forgotten, drained or not: Ray gives no id twice.
--
-- KEYS[1] prefix    reads and writes: seen, sightings, drained
-- ARGV    ms until the sightings end, {Ray node id, facts JSON}...

local FORGOTTEN = 24 * 3600 * 1000 -- ms

refuse_submitters()
for i = 2, #ARGV, 2 do
  redis.call('ZADD', key('seen'), now + tonumber(ARGV[1]), ARGV[i])
  redis.call('HSET', key('sightings'), ARGV[i], ARGV[i + 1])
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('seen'), '-inf', whole(now - FORGOTTEN))) do
  redis.call('ZREM', key('seen'), id)
  redis.call('HDEL', key('sightings'), id)
  redis.call('HDEL', key('drained'), id)
end
return 'ok'
