-- announced: what a service has been told, and what it need not be remembered to have been told any more.
--
-- KEYS[1] prefix    writes: announced
-- ARGV    service, how many were told, {name, number} of each..., names to forget...
-- returns 'ok'

refuse_submitters()
local told = key('announced', ARGV[1])
local first = 3 + 2 * ARGV[2]
for i = 3, first - 1, 2 do
  redis.call('HSET', told, ARGV[i], ARGV[i + 1])
end
for i = first, #ARGV do
  redis.call('HDEL', told, ARGV[i])
end
return 'ok'
