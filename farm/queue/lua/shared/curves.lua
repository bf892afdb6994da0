-- The curve of a run: points as JSON arrays that begin with the step and end with the validation loss or null.

local FINAL_POINTS = 200 -- of a run that is final: its ledger has every step, and 10,000 curves of 4,000 are 4 GB

local function step_of(point)
  return tonumber(point:match('^%[(%d+)'))
end

local function is_validated(point)
  return not point:match('null%]$')
end

-- The newest point of a run's curve, and the newest one with a validation: {point, point}, {point} or {}.
local function newest_points(id)
  local curve = key('curve', id)
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
end

-- Past twice `most`, thin out evenly over the steps: one point a bucket, with a validation if there is one in it; the
-- `newest` ones whole.
local function thin_out(id, most, newest)
  local curve = key('curve', id)
  local count = redis.call('LLEN', curve)
  if count <= 2 * most then
    return
  end
  local points = redis.call('LRANGE', curve, 0, -1)
  local first, final = step_of(points[1]), step_of(points[count])
  local width, bucket = (final - first + 1) / (most - newest), -1
  redis.call('DEL', curve)
  local kept = false -- has its bucket a point with a validation?
  for i, point in ipairs(points) do
    local here = math.floor((step_of(point) - first) / width)
    if here ~= bucket or i > count - newest then
      redis.call('RPUSH', curve, point)
      kept = is_validated(point)
      bucket = here
    elseif is_validated(point) and not kept then
      redis.call('RPOP', curve)
      redis.call('RPUSH', curve, point)
      kept = true
    end
  end
end
