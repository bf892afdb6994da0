-- events: what happened lately, to one run or to all, newest first.
--
-- KEYS[1] prefix    reads: events
-- ARGV    id or '', how many
-- returns {{stream id, {field, value, ...}}, ...}

return redis.call('XREVRANGE', ARGV[1] == '' and key('events') or key('events', ARGV[1]), '+', '-', 'COUNT', ARGV[2])
