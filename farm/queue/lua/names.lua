-- names: what a shell may complete: studies, arms or run ids that begin so, the first of them.
--
-- KEYS[1] prefix    reads: studies, imported, arms, ids
-- ARGV    'studies', 'arms' or 'runs'; beginning; study or '' (arms of all); most to return
-- returns the names

local kind, start, study, most = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

if kind == 'runs' then
  return ids_from(start, most)
end
local lists = {}
if kind == 'studies' then
  lists[1], lists[2] = redis.call('HKEYS', key('studies')), redis.call('HKEYS', key('imported'))
else
  for _, name in ipairs(study ~= '' and { study } or redis.call('HKEYS', key('studies'))) do
    lists[#lists + 1] = redis.call('HKEYS', key('arms', name))
  end
end

local found, seen = {}, {}
for _, names in ipairs(lists) do
  for _, name in ipairs(names) do
    if #found < most and not seen[name] and name:sub(1, #start) == start then
      found[#found + 1], seen[name] = name, true
    end
  end
end
return found
