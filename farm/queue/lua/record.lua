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

local last = redis.call('LINDEX', curve, -1)
while last and step_of(last) >= tonumber(ARGV[5] or math.huge) do
  redis.call('RPOP', curve)
  last = redis.call('LINDEX', curve, -1)
end
for i = 5, #ARGV, 2 do
  redis.call('RPUSH', curve, ARGV[i + 1])
end

thin_out(id, most, newest)
return { 'ok' }
