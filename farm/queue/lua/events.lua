-- events: what happened to a run lately, newest first.
--
-- KEYS[1] prefix    reads: events
-- ARGV    id, how many
-- returns {{stream id, {field, value, ...}}, ...}

return redis.call('XREVRANGE', key('events', ARGV[1]), '+', '-', 'COUNT', ARGV[2])
