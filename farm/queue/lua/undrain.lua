-- undrain: runs may start on this node again.
--
-- KEYS[1] prefix    writes: drained
-- ARGV    Ray node id
-- returns 1 if it was drained, else 0

refuse_submitters()
return redis.call('HDEL', key('drained'), ARGV[1])
