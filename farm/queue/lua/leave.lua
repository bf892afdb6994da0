-- leave: a node offers a machine class no longer; with its token, its name is free again, too.
--
-- KEYS[1] prefix    reads and writes: nodes, joined
-- ARGV    machine class, node, token or ''

refuse_submitters()
local machine, node, token = unpack(ARGV)
redis.call('ZREM', key('nodes', machine), node)
if token ~= '' and redis.call('HGET', key('joined', node), 'token') == token then
  redis.call('DEL', key('joined', node))
end
return 'ok'
