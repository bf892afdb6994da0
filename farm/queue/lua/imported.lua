-- imported: what was imported into a study, or into each.
--
-- KEYS[1] prefix    reads: imported
-- ARGV    name or ''
-- returns {name, JSON, ...}

if ARGV[1] == '' then
  return redis.call('HGETALL', key('imported'))
end
local found = redis.call('HGET', key('imported'), ARGV[1])
return found and { ARGV[1], found } or {}
