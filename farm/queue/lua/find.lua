-- find: the run, or the evaluation, of that id or, failing that, those whose id begins with it.
--
-- KEYS[1] prefix    reads: run, ids
-- ARGV    id or its beginning; most to return
-- returns how many there are, and the ids of the first

local start, most = ARGV[1], tonumber(ARGV[2])
if get(start, 'state') then
  return { 1, start }
end
local found = {}
if is_evaluation(start) then -- it has the whole id of its run
  for id in (get(start:match('^[^~]*'), 'evaluations') or ''):gmatch('%S+') do
    if id:sub(1, #start) == start and get(id, 'state') then
      found[#found + 1] = id
    end
  end
  return { #found, unpack(found, 1, math.min(most, #found)) }
end
return { redis.call('ZLEXCOUNT', key('ids'), '[' .. start, '(' .. start .. '\255'), unpack(ids_from(start, most)) }
