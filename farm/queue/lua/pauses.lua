-- pauses: of which study and corpus no run starts, where, and why (Q11).
--
-- KEYS[1] prefix    reads: paused
-- returns {'<study> <corpus>' or '<study> <corpus> <Ray node id>', reason, ...}

return redis.call('HGETALL', key('paused'))
