-- register: a node offers a machine class for a while; the facts of the class stay.
--
-- KEYS[1] prefix    reads and writes: machines, probes, nodes
-- ARGV    machine class, facts JSON, node, ms until the registration ends, {probe key, microbatch}...

refuse_submitters()
local machine, facts, node, length = unpack(ARGV, 1, 4)
redis.call('HSET', key('machines'), machine, facts)
redis.call('ZREMRANGEBYSCORE', key('nodes', machine), '-inf', now)
redis.call('ZADD', key('nodes', machine), now + tonumber(length), node)
for i = 5, #ARGV, 2 do
  redis.call('HSET', key('probes', machine), ARGV[i], ARGV[i + 1])
end
return 'ok'
