-- enroll: a machine joins under a name of its own for a while, or goes on doing so.
--
-- KEYS[1] prefix    reads and writes: joined
-- ARGV    name, token of this joining, ms until it ends, what to tell others of it
-- returns {'ok'}, {'taken', what the other told, ms until its claim ends}

refuse_submitters()
local name, token, length, facts = unpack(ARGV)
local holder = redis.call('HMGET', key('joined', name), 'token', 'facts')
if holder[1] and holder[1] ~= token then
  return { 'taken', holder[2], redis.call('PTTL', key('joined', name)) }
end
redis.call('HSET', key('joined', name), 'token', token, 'facts', facts)
redis.call('PEXPIRE', key('joined', name), length)
return { 'ok' }
