-- Where a run is counted and listed, and which runs are the same training.

local function is_evaluation(id)
  return id:find('~', 1, true) ~= nil
end

-- The score of a run in its queue, which puts it behind all of its priority. Exact: 1000 * 2^40 < 2^53.
local function insertion_score(sequence, priority)
  return sequence - tonumber(priority) * 2 ^ 40
end

-- Runs are counted apart from evaluations; `id` tells which it is.
local function count(id, state, change)
  redis.call('HINCRBY', key('counts'), is_evaluation(id) and 'evaluation ' .. state or state, change)
end

local function move(id, state)
  count(id, get(id, 'state'), -1)
  count(id, state, 1)
  set(id, 'state', state)
end

-- Members with ascending scores from `first` on, behind those that are there; who is there keeps its place. In pieces,
-- since Lua passes 8,000 values at most.
local function append(set, ids, first)
  for from = 1, #ids, 1000 do
    local members = {}
    for i = from, math.min(from + 999, #ids) do
      members[#members + 1] = first + i - 1
      members[#members + 1] = ids[i]
    end
    redis.call('ZADD', set, 'NX', unpack(members))
  end
end

local function append_to_study(study, ids)
  local last = redis.call('ZREVRANGE', key('study', study), 0, 0, 'WITHSCORES')[2]
  append(key('study', study), ids, last and last + 1 or 0)
end

-- Run id -> a study other than `study` that has it.
local function elsewhere(study)
  local found = {}
  for _, name in ipairs(redis.call('HKEYS', key('studies'))) do
    for _, id in ipairs(name ~= study and redis.call('ZRANGE', key('study', name), 0, -1) or {}) do
      found[id] = name
    end
  end
  return found
end

-- Out of `study`; whether one of the `others`, as `elsewhere` found them, has it still.
local function leave_study(id, study, others)
  redis.call('ZREM', key('study', study), id)
  if others[id] and get(id, 'study') == study then
    set(id, 'study', others[id])
  end
  return others[id] ~= nil
end

-- The runs of that digest: the same training, whatever its arm is called.
local function alike(digest)
  local found = {}
  for id in (redis.call('HGET', key('digests'), digest) or ''):gmatch('%S+') do
    found[#found + 1] = id
  end
  return found
end

local function remember_alike(digest, ids)
  if #ids > 0 then
    redis.call('HSET', key('digests'), digest, table.concat(ids, ' '))
  else
    redis.call('HDEL', key('digests'), digest)
  end
end

local function add_alike(digest, id)
  local ids = alike(digest)
  ids[#ids + 1] = id
  remember_alike(digest, ids)
end
