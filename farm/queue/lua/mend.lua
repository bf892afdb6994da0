-- mend: put keys of a wrong type aside, and make what is counted and listed agree again with the runs that are there.
--
-- KEYS[1] prefix    reads and writes: all
-- returns the names of the keys that were put aside now

local KINDS = { run = 'hash', causes = 'list', result = 'string', scores = 'hash', curve = 'list', events = 'stream',
  sequence = 'string', order = 'zset', unfinished = 'zset', ids = 'zset', evaluations = 'zset', counts = 'hash',
  changes = 'string', moves = 'zset', queue = 'zset', delayed = 'zset', classes = 'set', leases = 'zset',
  claim = 'string', studies = 'hash', study = 'zset', arms = 'hash', digests = 'hash', superseded = 'zset',
  forgotten = 'hash', machines = 'hash', probes = 'hash', nodes = 'zset', supply = 'string', head = 'string',
  joined = 'hash', seen = 'zset', sightings = 'hash', drained = 'hash', resting = 'string', storage = 'hash',
  indexing = 'set', dispatchers = 'zset', aside = 'hash', paused = 'hash', spent = 'string', imported = 'hash',
  references = 'hash', rentals = 'hash', announcing = 'string', announced = 'hash' }

refuse_submitters()
local moved, ids = {}, {}

local function look(name)
  local rest = name:sub(#prefix + 1)
  local role, id = rest:match('^([^:]+):?(.*)$')
  local found = redis.call('TYPE', name).ok
  if KINDS[role] and found ~= KINDS[role] then
    redis.call('RENAME', name, key('aside', rest))
    moved[#moved + 1] = rest
  elseif role == 'run' and get(id, 'state') then
    ids[#ids + 1] = { id, tonumber(get(id, 'submitted') or nil) or 0, tonumber(get(id, 'score') or nil) or 0 }
  end
end

local cursor, escaped = '0', prefix:gsub('[%*%?%[%]\\]', '\\%0')
repeat
  local names
  cursor, names = unpack(redis.call('SCAN', cursor, 'MATCH', escaped .. '*', 'COUNT', 1000))
  for _, name in ipairs(names) do
    look(name)
  end
until cursor == '0'
for _, name in ipairs(moved) do
  redis.call('HSET', key('aside'), name, key('aside', name))
end

table.sort(ids, function(one, other)
  return one[2] < other[2] or one[2] == other[2] and one[3] < other[3]
end)
local function known(name)
  return tonumber(redis.call('HGET', key('counts'), name) or nil) or 0
end

local counts = { forgotten = known('forgotten'), ['evaluation forgotten'] = known('evaluation forgotten') }
local total, evaluations, asked = #ids, 0, known('evaluation put')
local last = redis.call('ZREVRANGE', key('order'), 0, 0, 'WITHSCORES')[2] or 0
local lost = {} -- studies whose list was put aside
for _, name in ipairs(moved) do
  lost[name:match('^study:(.*)$') or ''] = true
end
for _, found in ipairs(ids) do
  local id = found[1]
  local state, machine, study, deadline = unpack(redis.call('HMGET', key('run', id), 'state', 'machine', 'study', 'deadline'))
  local field, list = state, key('order')
  if is_evaluation(id) then
    field, list, evaluations = 'evaluation ' .. state, key('evaluations'), evaluations + 1
  end
  counts[field] = (counts[field] or 0) + 1
  if not redis.call('ZSCORE', list, id) then
    last = last + 1
    redis.call('ZADD', list, last, id)
  end
  if not is_evaluation(id) then
    redis.call('ZADD', key('ids'), 0, id)
    list_unfinished(id, state)
    if lost[study] then
      append_to_study(study, { id })
    end
  end
  if state == 'queued' and is_sound(id) and machine and not redis.call('ZSCORE', key('delayed', machine), id) then
    redis.call('ZADD', key('queue', machine), get(id, 'score'), id)
    redis.call('SADD', key('classes'), machine)
  elseif state == 'running' then
    redis.call('ZADD', key('leases'), 'NX', tonumber(deadline or nil) or now, id)
  end
end
asked = math.max(asked, evaluations + counts['evaluation forgotten'])
local runs = total - evaluations
local put = math.max(tonumber(redis.call('GET', key('sequence')) or nil) or 0, last, asked + runs + counts.forgotten)
redis.call('SET', key('sequence'), whole(put))
counts.forgotten = put - asked - runs -- those whose own keys were put aside, too
counts['evaluation put'], counts['evaluation forgotten'] = asked, asked - evaluations
redis.call('DEL', key('counts'))
for state, count in pairs(counts) do
  redis.call('HSET', key('counts'), state, count)
end
remember_move('*')
return moved
