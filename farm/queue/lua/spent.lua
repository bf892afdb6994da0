-- spent: what studies with a limit have spent, if a dispatcher said so lately.
--
-- KEYS[1] prefix    reads: spent
-- returns JSON or false

return redis.call('GET', key('spent'))
