-- machines: every class that a node ever registered, with what was probed, and the nodes that offer it now.
--
-- KEYS[1] prefix    reads: machines, probes, nodes
-- returns {{class, facts JSON, {probe key, microbatch, ...}, {node, ...}}, ...}

local found = {}
for _, machine in ipairs(redis.call('HKEYS', key('machines'))) do
  found[#found + 1] = {
    machine,
    redis.call('HGET', key('machines'), machine),
    redis.call('HGETALL', key('probes', machine)),
    redis.call('ZRANGEBYSCORE', key('nodes', machine), '(' .. whole(now), '+inf'),
  }
end
return found
