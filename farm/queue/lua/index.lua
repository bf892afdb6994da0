-- index: whose records this Redis is the index of. A Redis that was emptied does not know.
--
-- KEYS[1] prefix    reads: storage
-- returns {marker of the storage, name of this index}, both false where it is none

return redis.call('HMGET', key('storage'), 'marker', 'name')
