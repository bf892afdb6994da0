-- indexed: all the records of a storage are in this Redis, unless it was emptied since they began to be read.
--
-- KEYS[1] prefix    reads and writes: storage, indexing
-- ARGV    token of `indexing`, marker of the storage, a name for this index, should it have none
-- returns {'ok', name of this index}, {'lost'}: begin again

refuse_submitters()
local token, marker, name = unpack(ARGV)
if redis.call('SREM', key('indexing'), token) == 0 then
  return { 'lost' }
end
redis.call('HSETNX', key('storage'), 'name', name)
redis.call('HSET', key('storage'), 'marker', marker)
return { 'ok', redis.call('HGET', key('storage'), 'name') }
