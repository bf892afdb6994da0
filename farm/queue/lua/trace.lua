-- trace: a run's loss over its steps so far: the means over equal shares of these steps. A share without a point is left
-- out.
--
-- KEYS[1] prefix    reads: curve
-- ARGV    id, how many shares
-- returns {mean, ...}, each a decimal

local id, shares = ARGV[1], tonumber(ARGV[2])
local points = redis.call('LRANGE', key('curve', id), 0, -1)
if #points == 0 then
  return {}
end
local first, final = step_of(points[1]), step_of(points[#points])
local sums, counts = {}, {}
for _, point in ipairs(points) do
  local loss = tonumber(point:match('^%[%d+,%s*([^,]+)'))
  if loss then
    local share = math.floor((step_of(point) - first) / (final - first + 1) * shares)
    sums[share], counts[share] = (sums[share] or 0) + loss, (counts[share] or 0) + 1
  end
end
local found = {}
for share = 0, shares - 1 do
  found[#found + 1] = sums[share] and string.format('%.9g', sums[share] / counts[share]) or nil
end
return found
