-- indexing: begin to read a storage's records into this Redis.
--
-- KEYS[1] prefix    writes: indexing; reads: storage
-- ARGV    token, marker of the storage
-- returns {'ok'}, {'conflict', marker}: this Redis is the index of another storage

refuse_submitters()
local there = redis.call('HGET', key('storage'), 'marker')
if there and there ~= ARGV[2] then
  return { 'conflict', there }
end
redis.call('SADD', key('indexing'), ARGV[1])
return { 'ok' }
