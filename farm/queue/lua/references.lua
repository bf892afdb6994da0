-- references: the reference models of a study, or of each.
--
-- KEYS[1] prefix    reads: references
-- ARGV    name or ''
-- returns {name, JSON, ...}

if ARGV[1] == '' then
  return redis.call('HGETALL', key('references'))
end
local found = redis.call('HGET', key('references'), ARGV[1])
return found and { ARGV[1], found } or {}
