-- front: the queued runs that come first, and how many others of their class are ahead of each. Every class has its turn:
-- the first of each, then the second of each. The rest are not read.
--
-- KEYS[1] prefix    reads: classes, queue, delayed, paused, study, run, causes, result
-- ARGV    'all', 'study' or 'one'; the study name or the run id; how many at most; fields of a run with spaces
--         between, of which each has the first; studies of which no run may start...
-- returns {JSON array as of statuses, how many are ahead, ...}

local which, name = ARGV[1], ARGV[2]
local most, fields = tonumber(ARGV[3]), words(ARGV[4])
local is_barred = barred(5, '')

local found = {}
local function walk(machine)
  local ahead, turn = 0, 0
  local function pass(id, is_due)
    if is_among(which, name, id) then
      turn = turn + 1
      found[#found + 1] = { id, ahead, turn, tonumber(get(id, 'score') or nil) or 0 }
    end
    if is_due and not is_evaluation(id) and not (is_barred and is_barred(id)) then
      ahead = ahead + 1
    end
  end

  local queue, from = key('queue', machine), 0
  repeat -- in pieces: a queue of thousands is not read for its first few
    local ids = redis.call('ZRANGE', queue, from, from + 199)
    for _, id in ipairs(ids) do
      pass(id, true)
    end
    from = from + 200
  until #ids == 0 or turn >= most
  local delayed = redis.call('ZRANGE', key('delayed', machine), 0, -1, 'WITHSCORES')
  for i = 1, #delayed, 2 do
    pass(delayed[i], tonumber(delayed[i + 1]) <= now)
  end
end

for _, machine in ipairs(redis.call('SMEMBERS', key('classes'))) do
  walk(machine)
end
table.sort(found, function(one, other)
  if one[3] ~= other[3] then
    return one[3] < other[3]
  end
  return one[4] < other[4]
end)

local answer = {}
for i = 1, math.min(#found, most) do
  local row = spelled(found[i][1], fields)
  if row then
    answer[#answer + 1] = row
    answer[#answer + 1] = found[i][2]
  end
end
return answer
