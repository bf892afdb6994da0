-- provide: what an autoscaler can start, for a while.
--
-- KEYS[1] prefix    writes: supply
-- ARGV    JSON, ms until it is forgotten

refuse_submitters()
redis.call('SET', key('supply'), ARGV[1], 'PX', ARGV[2])
return 'ok'
