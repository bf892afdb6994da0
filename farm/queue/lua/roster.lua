-- roster: every node that a dispatcher sees, and why no run starts there any more, or for a while.
--
-- KEYS[1] prefix    reads: seen, sightings, drained, resting
-- returns {{facts JSON, reason or false, reason or false}, ...}

local found = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('seen'), '(' .. whole(now), '+inf')) do
  found[#found + 1] = {
    redis.call('HGET', key('sightings'), id),
    redis.call('HGET', key('drained'), id),
    redis.call('GET', key('resting', id)),
  }
end
return found
