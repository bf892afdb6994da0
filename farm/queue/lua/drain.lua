-- drain: no run starts on this node any more; the first reason given is kept.
--
-- KEYS[1] prefix    writes: drained
-- ARGV    Ray node id, reason
-- returns the reason that holds

refuse_submitters()
redis.call('HSETNX', key('drained'), ARGV[1], ARGV[2])
return redis.call('HGET', key('drained'), ARGV[1])
