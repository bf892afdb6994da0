-- attending: the dispatchers that are there. After a start of Redis everybody who was is, for as long as a dispatcher may be
-- silent: while Redis was down none could report.
--
-- KEYS[1] prefix    reads: dispatchers
-- ARGV    ms that a dispatcher may be silent
-- returns their names

local up = uptime()
local since = up and up < tonumber(ARGV[1]) and '-inf' or now
return redis.call('ZRANGEBYSCORE', key('dispatchers'), since, '+inf')
