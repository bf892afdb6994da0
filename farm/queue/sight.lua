-- sight: a dispatcher sees these nodes, and will have looked again before their sightings end.
--
-- KEYS[1] prefix    reads and writes: seen, sightings
-- ARGV    ms until the sightings end, {Ray node id, facts JSON}...

refuse_submitters()
for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('seen'), '-inf', now)) do
  redis.call('ZREM', key('seen'), id)
  redis.call('HDEL', key('sightings'), id)
end
for i = 2, #ARGV, 2 do
  redis.call('ZADD', key('seen'), now + tonumber(ARGV[1]), ARGV[i])
  redis.call('HSET', key('sightings'), ARGV[i], ARGV[i + 1])
end
return 'ok'
