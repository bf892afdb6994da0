-- rest: let no run start on a node for a while.
--
-- KEYS[1] prefix    writes: resting
-- ARGV    Ray node id, reason, ms

refuse_submitters()
redis.call('SET', key('resting', ARGV[1]), ARGV[2], 'PX', ARGV[3])
return 'ok'
