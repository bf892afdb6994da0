-- publish: what the head says of itself, for who joins.
--
-- KEYS[1] prefix    writes: head
-- ARGV    facts JSON

refuse_submitters()
redis.call('SET', key('head'), ARGV[1])
return 'ok'
