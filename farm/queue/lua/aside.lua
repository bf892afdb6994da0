-- aside: the keys that had a wrong type.
--
-- KEYS[1] prefix    reads: aside
-- returns {name, where its value is now, ...}

return redis.call('HGETALL', key('aside'))
