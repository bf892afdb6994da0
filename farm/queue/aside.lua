-- aside: the keys that had a wrong type.
--
-- KEYS[1] prefix    reads: aside
-- returns {name, where its value is now, ...}

return redis.call('TYPE', key('aside')).ok == 'hash' and redis.call('HGETALL', key('aside')) or {}
