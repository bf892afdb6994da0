-- bring: keep what was imported into a study, over what was there.
--
-- KEYS[1] prefix    writes: imported
-- ARGV    study name, JSON; '' instead of it: nothing any more
-- returns 'ok'

refuse_submitters()
local study, text = ARGV[1], ARGV[2]
if text == '' then
  redis.call('HDEL', key('imported'), study)
else
  redis.call('HSET', key('imported'), study, text)
end
return 'ok'
