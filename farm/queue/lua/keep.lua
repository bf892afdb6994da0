-- keep: what was imported into a study, or its reference models, over what was there.
--
-- KEYS[1] prefix    writes: imported, references
-- ARGV    which of these; study name, JSON; '' instead of it: nothing any more
-- returns 'ok'

refuse_submitters()
local which, study, text = key(ARGV[1]), ARGV[2], ARGV[3]
if text == '' then
  redis.call('HDEL', which, study)
else
  redis.call('HSET', which, study, text)
end
return 'ok'
