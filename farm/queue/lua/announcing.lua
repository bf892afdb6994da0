-- announcing: be the one who tells a service what happened, or stay that for a while longer. Only one dispatcher is.
--
-- KEYS[1] prefix    reads and writes: announcing; reads: announced
-- ARGV    service, token of the dispatcher, ms after which another may be; 0: it stops
-- returns {'ok', {name, number, ...}}: what the service was told, {'another', the same}

refuse_submitters()
local service, token, length = unpack(ARGV)
local holder = redis.call('GET', key('announcing', service))
local told = redis.call('HGETALL', key('announced', service))
if holder and holder ~= token then
  return { 'another', told }
end
if length == '0' then
  redis.call('DEL', key('announcing', service))
else
  redis.call('SET', key('announcing', service), token, 'PX', length)
end
return { 'ok', told }
