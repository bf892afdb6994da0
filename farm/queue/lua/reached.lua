-- reached: the newest point of a run's curve, and the newest one with a validation.
--
-- KEYS[1] prefix    reads: curve
-- ARGV    id
-- returns {point, point}, {point} without any validation, or {} without any point

local curve = key('curve', ARGV[1])
local last = redis.call('LINDEX', curve, -1)
if not last then
  return {}
end
for from = redis.call('LLEN', curve), 1, -200 do
  local points = redis.call('LRANGE', curve, math.max(from - 200, 0), from - 1)
  for i = #points, 1, -1 do
    if is_validated(points[i]) then
      return { last, points[i] }
    end
  end
end
return { last }
