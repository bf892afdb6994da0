-- studies: all of them, or one.
--
-- KEYS[1] prefix    reads: studies
-- ARGV    name or ''
-- returns {name, study JSON, ...}

if ARGV[1] == '' then
  return redis.call('HGETALL', key('studies'))
end
local found = redis.call('HGET', key('studies'), ARGV[1])
return found and { ARGV[1], found } or {}
