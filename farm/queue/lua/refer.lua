-- refer: keep the reference models of a study, over what was there.
--
-- KEYS[1] prefix    writes: references
-- ARGV    study name, JSON; '' instead of it: none any more
-- returns 'ok'

refuse_submitters()
local study, text = ARGV[1], ARGV[2]
if text == '' then
  redis.call('HDEL', key('references'), study)
else
  redis.call('HSET', key('references'), study, text)
end
return 'ok'
