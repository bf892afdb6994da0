-- find: the run, or the evaluation, of that id or, failing that, every one whose id begins with it.
--
-- KEYS[1] prefix    reads: run, order, evaluations
-- ARGV    id or its beginning; '' is the beginning of all
-- returns the ids in the order they were put

local start = ARGV[1]
if get(start, 'state') then
  return { start }
end
local found = {}
for _, id in ipairs(redis.call('ZRANGE', key(is_evaluation(start) and 'evaluations' or 'order'), 0, -1)) do
  if id:sub(1, #start) == start then
    found[#found + 1] = id
  end
end
return found
