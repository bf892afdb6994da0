-- queued: how many runs each machine class may claim now, in the order of their next runs: priority, then first in.
-- Classes without any are left out, and so are some studies, and runs whose corpus is paused everywhere (Q11).
--
-- KEYS[1] prefix    reads: classes, queue, delayed, run, paused
-- ARGV    studies to pass over...
-- returns {class, count, class, count, ...}

local is_barred = barred(1, '')

-- How many of `ids` may be claimed, and the least score among them.
local function counted(ids)
  local total, least = 0, math.huge
  for _, id in ipairs(ids) do
    if not (is_barred and is_barred(id)) then
      total, least = total + 1, math.min(least, tonumber(get(id, 'score') or nil) or 0)
    end
  end
  return total, least
end

local lines = {}
for _, machine in ipairs(redis.call('SMEMBERS', key('classes'))) do
  local queue = key('queue', machine)
  local last = is_barred and -1 or 0 -- where none is passed over, the first stands for all
  local total, first = counted(redis.call('ZRANGE', queue, 0, last))
  local due, least = counted(redis.call('ZRANGEBYSCORE', key('delayed', machine), '-inf', now))
  total = (last == 0 and redis.call('ZCARD', queue) or total) + due
  if total > 0 then
    lines[#lines + 1] = { machine, total, math.min(first, least) }
  end
end
table.sort(lines, function(one, other) return one[3] < other[3] end)

local found = {}
for _, line in ipairs(lines) do
  found[#found + 1] = line[1]
  found[#found + 1] = line[2]
end
return found
