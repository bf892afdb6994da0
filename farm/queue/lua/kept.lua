-- kept: what is kept by study: the studies themselves, what was imported into them, or their reference models.
--
-- KEYS[1] prefix    reads: studies, imported, references
-- ARGV    which of these; name or '', for all of them
-- returns {name, JSON, ...}

local which, study = key(ARGV[1]), ARGV[2]
if study == '' then
  return redis.call('HGETALL', which)
end
local found = redis.call('HGET', which, study)
return found and { study, found } or {}
