-- counts: how many runs are in each state, and how many were ever put, at one instant (Q9); the same of evaluations.
--
-- KEYS[1] prefix    reads: counts, sequence
-- returns {put, both kinds together, state, count, state, count, ...}

return { redis.call('GET', key('sequence')) or '0', unpack(redis.call('HGETALL', key('counts'))) }
