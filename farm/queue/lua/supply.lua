-- supply: what an autoscaler can start, if one said so lately.
--
-- KEYS[1] prefix    reads: supply
-- returns JSON or false

return redis.call('GET', key('supply'))
