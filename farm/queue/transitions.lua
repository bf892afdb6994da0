-- What the verbs share: the clock, the names of the keys, and the moves between states. Prepended to every verb.
--
-- KEYS[1]           the prefix; every key is <prefix><role> or <prefix><role>:<name>
--
--   run:<id>        hash    the run (spec, machine, arm, digest, corpus, study, priority and order as `score`, limit), its
--                           state, its lease (epoch, deadline, length, worker, job, node, renewed, why it is wanted back
--                           as `recalled`), its progress (step, checkpoint), its failures (attempts, crash_step, crashes),
--                           `cancelling`, `not_before`, the ms under ended leases (`held`), why the last lease was given
--                           back (`released`), which deadline was first seen missed when, where INFO is forbidden (`late`)
--   causes:<id>     list    why attempts failed: "<ms> <epoch> <json>"
--   result:<id>     string  the result, canonical JSON
--   curve:<id>      list    points of the curve, JSON arrays that begin with the step, steps ascending
--   events:<id>     stream  what happened to the run, bounded
--   sequence        string  runs ever put
--   order           zset    run ids in the order they were put
--   counts          hash    state -> runs in it
--   queue:<class>   zset    run ids that may be claimed now, by score: priority, then first in
--   delayed:<class> zset    run ids that back off, by the ms when they may be claimed again
--   classes         set     machine classes that runs name
--   leases          zset    running run ids by deadline in ms
--   workers         none    is never there; every verb that is not for submitters looks, and they may not
--   claim:<token>   string  what a claim was answered, while its lease lasts: "<epoch> <id>"
--   studies         hash    study name -> study, JSON
--   study:<name>    zset    run ids of the study in the order they were put
--   arms:<name>     hash    arm -> what its recipe changes, canonical JSON (recipe.identity)
--   paused          hash    "<study> <corpus>" -> why no run of those starts, "<study> <corpus> <Ray node id>" -> why none
--                           starts there
--   spent           string  study -> dollars, as a dispatcher counted them last, JSON; gone when it is
--   machines        hash    machine class -> facts, JSON
--   probes:<class>  hash    probe key -> largest microbatch
--   nodes:<class>   zset    nodes that offer the class, by the ms when their registration ends
--   supply          string  what an autoscaler can start, JSON; gone when the farm that said so is
--   head            string  what the head said of itself last, JSON
--   joined:<name>   hash    token and facts of the machine that joined under that name, while it lasts
--   seen            zset    Ray node ids that a dispatcher sees, by the ms when the sighting ends
--   sightings       hash    Ray node id -> facts, JSON
--   drained         hash    Ray node id -> why no run starts there any more; a node that joins again has another id
--   resting:<id>    string  why no run starts on that Ray node for a while, which is as long as it is there

local EVENTS = 200 -- of a run
local POISON = 3 -- crashes at the same step

local prefix = KEYS[1]

local function key(role, name)
  return name and (prefix .. role .. ':' .. name) or (prefix .. role)
end

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000) -- ms; the only clock

local function whole(number) -- tostring would turn 1e15 into an exponent
  return string.format('%.0f', number)
end

local function get(id, field)
  return redis.call('HGET', key('run', id), field)
end

local function set(id, ...)
  redis.call('HSET', key('run', id), ...)
end

local function tell(event, id, epoch, detail)
  redis.call('XADD', key('events', id), 'MAXLEN', '~', EVENTS, '*', 'event', event, 'epoch', epoch, 'detail', detail)
end

-- The first thing that a verb does that is not for submitters: by their ACL they may not even look at `workers`, so it
-- ends here, before anything is written.
local function refuse_submitters()
  redis.call('EXISTS', key('workers'))
end

-- The fence: whether `epoch` is the live lease of the run. A running run is in `leases`, and no other is.
local function holds(id, epoch)
  refuse_submitters()
  return redis.call('ZSCORE', key('leases'), id) and get(id, 'epoch') == epoch
end

-- What may not be claimed on `nodes` (ids joined by '+'): the runs of the studies that ARGV names from `start` on, and
-- those whose corpus is paused (Q11). A function from the id; nil when everything may be.
local function barred(start, nodes)
  local studies, paused, is_any = {}, {}, false
  for i = start, #ARGV do
    studies[ARGV[i]], is_any = true, true
  end
  for _, place in ipairs(redis.call('HKEYS', key('paused'))) do
    paused[place], is_any = true, true
  end
  return is_any and function(id)
    local study, corpus = unpack(redis.call('HMGET', key('run', id), 'study', 'corpus'))
    local place = study .. ' ' .. corpus
    local is_barred = studies[study] or paused[place]
    for node in nodes:gmatch('[^+]+') do
      is_barred = is_barred or paused[place .. ' ' .. node]
    end
    return is_barred
  end
end

-- Whatever is paused of these places, a set of "<study> <corpus>", is so no longer.
local function resume(places)
  for _, place in ipairs(redis.call('HKEYS', key('paused'))) do
    if places[place:match('^%S+ %S+')] then
      redis.call('HDEL', key('paused'), place)
    end
  end
end

local function count(state, change)
  redis.call('HINCRBY', key('counts'), state, change)
end

local function move(id, state)
  count(get(id, 'state'), -1)
  count(state, 1)
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

local function end_lease(id)
  if redis.call('ZREM', key('leases'), id) == 1 then
    redis.call('HINCRBY', key('run', id), 'held', now - get(id, 'started'))
  end
  redis.call('HDEL', key('run', id), 'deadline', 'length', 'renewed', 'recalled')
end

-- Into a final state, for good (but for retry).
local function settle(id, state, detail)
  end_lease(id)
  move(id, state)
  set(id, 'ended', now)
  redis.call('HDEL', key('run', id), 'cancelling', 'not_before')
  tell(state, id, get(id, 'epoch'), detail)
end

-- Back to the place it had: at once, or no sooner than `delay` ms from now.
local function requeue(id, delay)
  local machine = get(id, 'machine')
  end_lease(id)
  redis.call('HDEL', key('run', id), 'worker', 'job', 'node')
  move(id, 'queued')
  if delay > 0 then
    redis.call('ZADD', key('delayed', machine), now + delay, id)
    set(id, 'not_before', now + delay)
  else
    redis.call('ZADD', key('queue', machine), get(id, 'score'), id)
  end
end

-- Three crashes at one step are poison; getting further than the last crash resets the count.
local function crashes_at(id, step)
  local last = tonumber(get(id, 'crash_step') or -1)
  if step > last then
    set(id, 'crash_step', step, 'crashes', 1)
    return 1
  elseif step == last then
    return redis.call('HINCRBY', key('run', id), 'crashes', 1)
  end
  return 0
end

-- Why there is no sense in another try after that many failures; nil if there is.
local function verdict(step, retryable, crashes, attempts, limit)
  if not retryable then
    return 'not retryable'
  elseif crashes >= POISON then
    return POISON .. ' crashes at step ' .. whole(step)
  elseif attempts >= tonumber(limit) then
    return 'all ' .. attempts .. ' attempts spent'
  end
end

-- An attempt failed: cancelled if that was asked for, failed if there is no sense in another try, else queued again.
-- `delay` is a function from attempts spent to ms of back-off.
local function count_failure(id, cause, step, retryable, delay)
  redis.call('RPUSH', key('causes', id), whole(now) .. ' ' .. get(id, 'epoch') .. ' ' .. cause)
  redis.call('HDEL', key('run', id), 'released')
  local attempts = redis.call('HINCRBY', key('run', id), 'attempts', 1)
  local final = verdict(step, retryable, crashes_at(id, step), attempts, get(id, 'limit'))
  if get(id, 'cancelling') then
    settle(id, 'cancelled', 'failed while being cancelled')
  elseif final then
    settle(id, 'failed', final)
  else
    requeue(id, delay(attempts))
    tell('requeued', id, get(id, 'epoch'), 'attempt ' .. attempts .. ' of ' .. get(id, 'limit') .. ' failed')
  end
end

local function uptime() -- ms; nil where Redis may not be asked
  local info = redis.pcall('INFO', 'server')
  local seconds = type(info) == 'string' and info:match('uptime_in_seconds:(%d+)')
  return seconds and seconds * 1000
end

-- Whether nobody renewed the lease in time. While Redis itself was down nobody could, so after a start every lease has
-- its own length again. Where Redis does not say since when it is up, a lease has that from when it is first seen late.
local function has_expired(id, deadline, up)
  local length = tonumber(get(id, 'length'))
  if up or deadline >= now then
    return deadline < now and up >= length
  end
  local of, since = (get(id, 'late') or ''):match('^(%d+) (%d+)$')
  if of ~= whole(deadline) then
    set(id, 'late', whole(deadline) .. ' ' .. whole(now))
    return false
  end
  return now - since >= length
end

local function expire(id)
  local step = tonumber(get(id, 'step'))
  local worker, node, epoch = get(id, 'worker'), get(id, 'node'), get(id, 'epoch')
  tell('expired', id, epoch, worker)
  if get(id, 'renewed') then
    local where = node and (' on ' .. node) or ''
    local cause = { cause = 'lease-expired', step = step, retryable = true,
      message = 'worker ' .. worker .. where .. ' was not heard of for ' .. get(id, 'length') / 1000 .. ' s' }
    count_failure(id, cjson.encode(cause), step, true, function() return 0 end)
  elseif get(id, 'cancelling') then
    settle(id, 'cancelled', 'its lease expired')
  else -- whoever claimed it died before the agent was up: that costs a lease, not an attempt
    requeue(id, 0)
    set(id, 'released', worker .. ' claimed it and no agent came up')
  end
end

-- Every lease past its deadline ends; the ids of their runs.
local function sweep()
  refuse_submitters()
  local expired = {}
  local late = redis.call('ZRANGEBYSCORE', key('leases'), '-inf', '(' .. whole(now), 'WITHSCORES')
  local up = #late > 0 and uptime()
  for i = 1, #late, 2 do
    if has_expired(late[i], tonumber(late[i + 1]), up) then
      expire(late[i])
      expired[#expired + 1] = late[i]
    end
  end
  return expired
end
