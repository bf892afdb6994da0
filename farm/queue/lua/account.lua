-- account: what studies have spent, as a dispatcher counts it, for a while.
--
-- KEYS[1] prefix    writes: spent
-- ARGV    JSON, ms until it is forgotten

refuse_submitters()
redis.call('SET', key('spent'), ARGV[1], 'PX', ARGV[2])
return 'ok'
