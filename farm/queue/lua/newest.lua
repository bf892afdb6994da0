-- newest: the studies that submitted runs, by the last of them, newest first.
--
-- KEYS[1] prefix    reads: order, run
-- returns {study, ...}

local found, seen = {}, {}
for _, id in ipairs(redis.call('ZREVRANGE', key('order'), 0, -1)) do
  local study = get(id, 'study')
  if study and not seen[study] then
    found[#found + 1], seen[study] = study, true
  end
end
return found
