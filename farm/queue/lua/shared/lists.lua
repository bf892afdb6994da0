-- Where a run is counted and listed, and which runs are the same training.

local function is_evaluation(id)
  return id:find('~', 1, true) ~= nil
end

-- The score of a run in its queue, which puts it behind all of its priority. Exact: 1000 * 2^40 < 2^53.
local function insertion_score(sequence, priority)
  return sequence - tonumber(priority) * 2 ^ 40
end

-- A list that is read in pages is brought to one instant by the changes since the first page (statuses.lua).
local MOVES = 1000
local function remember_move(id)
  local number = redis.call('INCR', key('changes'))
  redis.call('ZADD', key('moves'), number, id)
  redis.call('ZREMRANGEBYRANK', key('moves'), 0, -MOVES - 1)
end

-- Runs are counted apart from evaluations; `id` tells which it is.
local function count(id, state, change)
  redis.call('HINCRBY', key('counts'), is_evaluation(id) and 'evaluation ' .. state or state, change)
end

-- Among those that have not ended, or no longer.
local function list_unfinished(id, state)
  if FINAL[state] then
    redis.call('ZREM', key('unfinished'), id)
  elseif not is_evaluation(id) then
    redis.call('ZADD', key('unfinished'), redis.call('ZSCORE', key('order'), id) or 0, id)
  end
end

local function move(id, state)
  local was = get(id, 'state')
  count(id, was, -1)
  count(id, state, 1)
  set(id, 'state', state)
  remember_move(id)
  if (FINAL[was] or false) ~= (FINAL[state] or false) then
    list_unfinished(id, state)
  end
end

-- The ids of a page of a list whose scores never change, from after the score `after` on ('': from the first), and where
-- the next page begins ('': nowhere).
local function page_of(list, after, most)
  local least = after == '' and '-inf' or '(' .. after
  local found, ids = redis.call('ZRANGEBYSCORE', list, least, '+inf', 'WITHSCORES', 'LIMIT', 0, most), {}
  for i = 1, #found, 2 do
    ids[#ids + 1] = found[i]
  end
  return ids, #ids == most and found[#found] or ''
end

-- The run ids that begin so, the first `most` of them.
local function ids_from(start, most)
  return redis.call('ZRANGEBYLEX', key('ids'), '[' .. start, '(' .. start .. '\255', 'LIMIT', 0, most)
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

-- Run id -> a study other than `study` that has it, for those of `ids` that one has.
local function elsewhere(study, ids)
  local found = {}
  for _, name in ipairs(#ids > 0 and redis.call('HKEYS', key('studies')) or {}) do
    for from = 1, name ~= study and #ids or 0, 1000 do -- Lua passes 8,000 values at most
      local last = math.min(from + 999, #ids)
      for i, place in ipairs(redis.call('ZMSCORE', key('study', name), unpack(ids, from, last))) do
        found[ids[from + i - 1]] = place and name or found[ids[from + i - 1]]
      end
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
