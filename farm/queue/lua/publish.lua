-- publish: what the head says of itself, for joining machines.
--
-- KEYS[1] prefix    writes: head
-- ARGV    facts JSON

refuse_submitters()
redis.call('SET', key('head'), ARGV[1])
return 'ok'
