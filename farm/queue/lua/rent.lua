-- rent: keep the record of a rented machine, unless another writer was first.
--
-- KEYS[1] prefix    writes: rentals
-- ARGV    name, the record as the writer read it ('': there was none), the record ('': forget it)
-- returns 1, or 0: the record is another one by now, and stays

refuse_submitters()
local before = redis.call('HGET', key('rentals'), ARGV[1]) or ''
if before ~= ARGV[2] then
  return 0
end
if ARGV[3] == '' then
  redis.call('HDEL', key('rentals'), ARGV[1])
else
  redis.call('HSET', key('rentals'), ARGV[1], ARGV[3])
end
return 1
