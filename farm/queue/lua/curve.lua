-- curve: the points of a run.
--
-- KEYS[1] prefix    reads: curve
-- ARGV    id
-- returns {JSON array per point}

return redis.call('LRANGE', key('curve', ARGV[1]), 0, -1)
