-- studies: all of them, or one.
--
-- KEYS[1] prefix    reads: studies
-- ARGV    name or ''
-- returns {study JSON, ...}

if ARGV[1] == '' then
  return redis.call('HVALS', key('studies'))
end
return { redis.call('HGET', key('studies'), ARGV[1]) or nil }
