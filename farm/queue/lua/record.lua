-- record: append points to the curve. Points of the same or a later step make way: a resumed run says them again.
--
-- KEYS[1] prefix    reads and writes: leases, run, curve
-- ARGV    id, epoch, most points to keep, newest to keep whole, {step, point JSON}... with steps ascending
-- returns {'ok'}, {'lost'} (Q4)

local id, epoch, most, newest = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
if not holds(id, epoch) then
  return { 'lost' }
end
local curve = key('curve', id)

local function step_of(point)
  return tonumber(point:match('^%[(%d+)'))
end

local last = redis.call('LINDEX', curve, -1)
while last and step_of(last) >= tonumber(ARGV[5] or math.huge) do
  redis.call('RPOP', curve)
  last = redis.call('LINDEX', curve, -1)
end
for i = 5, #ARGV, 2 do
  redis.call('RPUSH', curve, ARGV[i + 1])
end

-- The last value of a point is its validation loss; most have none.
local function is_validated(point)
  return not point:match('null%]$')
end

-- Past twice the limit, thin out evenly over the steps: one point a bucket, with a validation if there is one in it; the
-- newest ones whole.
local count = redis.call('LLEN', curve)
if count > 2 * most then
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
return { 'ok' }
