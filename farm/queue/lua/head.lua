-- head: what the head said of itself last.
--
-- KEYS[1] prefix    reads: head
-- returns facts JSON, or false

return redis.call('GET', key('head'))
