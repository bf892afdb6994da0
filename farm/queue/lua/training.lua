-- training: the first of the runs that hold a lease, in the order they were submitted, with their newest points, at one
-- instant (Q9). The rest are counted and not read. Evaluations are not among them.
--
-- KEYS[1] prefix    reads: leases, order, study, run, causes, result, curve
-- ARGV    'all', 'study' or 'one'; the study name or the run id; how many at most; fields of a run with spaces
--         between, of which each has the first
-- returns {how many hold one, {JSON array as of statuses, {point, point} as of reached}...}

local which, name, most = unpack(ARGV)
local fields = words(ARGV[4])
local ids, place = {}, {}
for _, id in ipairs(redis.call('ZRANGE', key('leases'), 0, -1)) do
  if is_among(which, name, id) then
    ids[#ids + 1] = id
    place[id] = tonumber(redis.call('ZSCORE', key('order'), id) or nil) or math.huge
  end
end
table.sort(ids, function(one, other) return place[one] < place[other] end)

local found = { #ids }
for i = 1, math.min(#ids, tonumber(most)) do
  local row = spelled(ids[i], fields)
  found[#found + 1] = row and { row, newest_points(ids[i]) } or nil
end
return found
