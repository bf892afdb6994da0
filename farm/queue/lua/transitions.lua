-- What the verbs share: the clock, the names of the keys, and the moves between states. Prepended to every verb.
--
-- KEYS[1]           the prefix; every key is <prefix><role> or <prefix><role>:<name>
--
--   run:<id>        hash    the run (spec, machine, arm, digest, corpus, study, priority and order as `score`, limit), its
--                           state, its lease (epoch, deadline, length, worker, job, node, renewed, why it is wanted back
--                           as `recalled`), the run whose result it has (`adopted`),
--                           its progress (step, checkpoint), its failures (attempts, crash_step, crashes),
--                           `cancelling`, `not_before`, the ms under ended leases (`held`), why the last lease was given
--                           back (`released`), the `evaluations` of its model with spaces between, which deadline was first seen missed when, where INFO is forbidden (`late`)
--   causes:<id>     list    why attempts failed: "<ms> <epoch> <json>"
--   result:<id>     string  the result, canonical JSON
--   scores:<id>     hash    evaluation -> what its model is worth, JSON
--   curve:<id>      list    points of the curve, JSON arrays that begin with the step, steps ascending
--   events:<id>     stream  what happened to the run, bounded
--   sequence        string  runs and evaluations ever put
--   order           zset    run ids in the order they were put
--   evaluations     zset    ids of jobs that score a model, "<run id>~<evaluation>", in the order they were asked for; each
--                           has run:<id>, causes:<id>, result:<id> (its score) and events:<id> as a run has, with `of`, the
--                           run that trained the model, and is in queue, delayed and leases as runs are
--   counts          hash    state -> runs in it; `forgotten` -> runs that are gone; "evaluation <state>" and "evaluation
--                           forgotten" -> the same of those jobs, "evaluation put" -> how many there ever were
--   queue:<class>   zset    run ids that may be claimed now, by score: priority, then first in
--   delayed:<class> zset    run ids that back off, by the ms when they may be claimed again
--   classes         set     machine classes that runs name
--   leases          zset    running run ids by deadline in ms
--   digests         hash    run digest -> ids of the runs that have it, with spaces between: one training, several names
--   superseded      zset    runs whose arm has another recipe now, by the ms since when: in no study, and forgotten by a
--                           sweep once they are final
--   forgotten       hash    id of a forgotten run -> its last epoch: put again, it begins above that
--   storage         hash    marker of the storage whose records this Redis is the index of, and its own name as that; gone
--                           when Redis was emptied, and no run is claimed until the records were read again
--   indexing        set     tokens of those who read records into this Redis now
--   dispatchers     zset    names of dispatchers, which claims have as their worker, by the ms until which each is there
--   aside           hash    name of a key that had a wrong type -> where its value is now
--   workers         none    is never there; every verb that writes looks, and submitters may not
--   taken:<token>   string  a clerk does what that asking is for; for a minute, as the next
--   said:<token>    string  what came of it, JSON (farm.queue.clerk)
--   claim:<token>   string  what a claim was answered, while its lease lasts: "<epoch> <id>"
--   studies         hash    study name -> study, JSON
--   study:<name>    zset    run ids of the study in the order they were put
--   arms:<name>     hash    arm -> what its recipe changes, canonical JSON (recipe.identity)
--   imported        hash    study name -> what was imported into it, JSON; that study need not be in `studies`
--   references      hash    study name -> its reference models, JSON
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
local FINAL = { succeeded = true, failed = true, cancelled = true }
local POISON = 3 -- crashes at the same step
-- Causes that tell of a machine, its Ray, a network or a storage, and not of what was trained: they cost an attempt, and
-- are never poison.
local CIRCUMSTANCES = { ['lease-expired'] = true, ['lease-lost'] = true, ['agent-died'] = true, ['machine-died'] = true,
  unreachable = true, ['storage-full'] = true, ['storage-unusable'] = true }

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

-- What a verb does before it writes: submitters may write nothing, and may not even look at `workers`, so it ends here.
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
    local place = (study or '') .. ' ' .. (corpus or '')
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

local function is_evaluation(id)
  return id:find('~', 1, true) ~= nil
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

-- Gone, but for its last epoch; whoever scores that model has lost the lease.
local function erase_evaluation(id)
  local state, machine, epoch = unpack(redis.call('HMGET', key('run', id), 'state', 'machine', 'epoch'))
  redis.call('HSET', key('forgotten'), id, epoch)
  redis.call('ZREM', key('evaluations'), id)
  redis.call('ZREM', key('queue', machine), id)
  redis.call('ZREM', key('delayed', machine), id)
  redis.call('ZREM', key('leases'), id)
  redis.call('DEL', key('run', id), key('causes', id), key('result', id), key('events', id))
  count(id, state, -1)
  count(id, 'forgotten', 1)
end

-- Gone, but for its last epoch, and for its result where others have adopted that. Nobody scores its model any more.
local function erase(id)
  if is_evaluation(id) then
    return erase_evaluation(id)
  end
  for job in (get(id, 'evaluations') or ''):gmatch('%S+') do
    if get(job, 'state') then
      erase_evaluation(job)
    end
  end
  local state, digest, epoch, study = unpack(redis.call('HMGET', key('run', id), 'state', 'digest', 'epoch', 'study'))
  local rest, result = {}, redis.call('GET', key('result', id))
  for _, other in ipairs(alike(digest)) do
    if other ~= id then
      rest[#rest + 1] = other
    end
    if result and get(other, 'adopted') == id then
      redis.call('SET', key('result', other), result)
      for _, evaluation in ipairs(redis.call('HKEYS', key('scores', id))) do
        redis.call('HSET', key('scores', other), evaluation, redis.call('HGET', key('scores', id), evaluation))
      end
      redis.call('HDEL', key('run', other), 'adopted')
    end
  end
  remember_alike(digest, rest)
  redis.call('HSET', key('forgotten'), id, epoch)
  redis.call('ZREM', key('study', study), id)
  redis.call('ZREM', key('order'), id)
  redis.call('ZREM', key('superseded'), id)
  redis.call('DEL', key('run', id), key('causes', id), key('result', id), key('scores', id), key('curve', id),
    key('events', id))
  count(id, state, -1)
  count(id, 'forgotten', 1)
end

-- A queued run at once, a running one at its next renewal (Q8). Touches no lease.
local function cancel(id)
  local state = get(id, 'state')
  if state == 'queued' then
    local machine = get(id, 'machine')
    redis.call('ZREM', key('queue', machine), id)
    redis.call('ZREM', key('delayed', machine), id)
    redis.call('HDEL', key('run', id), 'not_before')
    set(id, 'ended', now)
    move(id, 'cancelled')
    tell('cancelled', id, get(id, 'epoch'), 'while queued')
  elseif state == 'running' and not get(id, 'cancelling') then
    set(id, 'cancelling', 1)
    tell('cancelling', id, get(id, 'epoch'), 'at the next heartbeat')
  end
end

-- What the model of the run is worth, as ARGV says from `start` on: {evaluation, JSON}...
local function keep_scores(id, start)
  for i = start, #ARGV, 2 do
    redis.call('HSET', key('scores', id), ARGV[i], ARGV[i + 1])
  end
  return (#ARGV - start + 1) / 2
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

local function forget_crashes(id)
  redis.call('HDEL', key('run', id), 'crash_step', 'crashes')
end

-- Under its lease the run has got to `step`: beyond the step where it crashed, that was no poison.
local function reach(id, step)
  local last = tonumber(get(id, 'crash_step') or nil)
  if last and tonumber(step) > last then
    forget_crashes(id)
  end
end

-- Its directory knows `epoch`: no lease of the run is below or at that any more, and the next one is above.
local function lift(id, epoch)
  if tonumber(get(id, 'epoch')) >= tonumber(epoch) then
    return
  end
  if get(id, 'cancelling') then
    settle(id, 'cancelled', 'its directory holds epoch ' .. epoch)
  elseif get(id, 'state') == 'running' then
    requeue(id, 0)
    set(id, 'released', 'its directory holds epoch ' .. epoch)
  end
  set(id, 'epoch', epoch)
  tell('lifted', id, epoch, 'its directory holds that epoch')
end

-- Three crashes at one step that the training caused are poison; getting further than the last one resets the count, and
-- so does a lease that was taken up and given back.
local function crashes_at(id, step, cause)
  if CIRCUMSTANCES[cause] then
    return 0
  end
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
    return attempts == 1 and 'the only attempt is spent' or 'all ' .. attempts .. ' attempts are spent'
  end
end

-- An attempt failed for the cause of that name and JSON: cancelled if that was asked for, failed if there is no sense in another try, else queued again.
-- `delay` is a function from attempts spent to ms of back-off.
local function count_failure(id, name, cause, step, retryable, delay)
  redis.call('RPUSH', key('causes', id), whole(now) .. ' ' .. get(id, 'epoch') .. ' ' .. cause)
  reach(id, step)
  redis.call('HDEL', key('run', id), 'released')
  local attempts = redis.call('HINCRBY', key('run', id), 'attempts', 1)
  local final = verdict(step, retryable, crashes_at(id, step, name), attempts, get(id, 'limit'))
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

-- Whether what a lease needs can be counted with.
local function is_sound(id)
  local run = redis.call('HMGET', key('run', id), 'state', 'epoch', 'step', 'score', 'attempts', 'started', 'length')
  local held = run[1] ~= 'running' or (tonumber(run[6] or nil) and tonumber(run[7] or nil))
  return (run[1] == 'queued' or run[1] == 'running') and tonumber(run[2] or nil) and tonumber(run[3] or nil)
    and tonumber(run[4] or nil) and tonumber(run[5] or nil) and held
end

-- Out of the queue and the leases, where it would end the verb that comes across it; failed, if it is there at all.
local function put_aside(id)
  local state = get(id, 'state')
  redis.call('ZREM', key('leases'), id)
  if state == 'queued' or state == 'running' then
    move(id, 'failed')
    set(id, 'ended', now)
    local cause = { cause = 'unreadable', message = 'what Redis holds of it cannot be read', step = 0, retryable = false }
    redis.call('RPUSH', key('causes', id), whole(now) .. ' 0 ' .. cjson.encode(cause))
    tell('failed', id, 0, cause.message)
  end
end

local function expire(id)
  local step = tonumber(get(id, 'step'))
  local worker, node, epoch = get(id, 'worker'), get(id, 'node'), get(id, 'epoch')
  tell('expired', id, epoch, worker)
  if get(id, 'renewed') then
    local where = node and (' on ' .. node) or ''
    local cause = { cause = 'lease-expired', step = step, retryable = true,
      message = 'worker ' .. worker .. where .. ' was not heard of for ' .. get(id, 'length') / 1000 .. ' s' }
    count_failure(id, cause.cause, cjson.encode(cause), step, true, function() return 0 end)
  elseif get(id, 'cancelling') then
    settle(id, 'cancelled', 'its lease expired')
  else -- whoever claimed it died before the agent was up: that costs a lease, not an attempt
    requeue(id, 0)
    set(id, 'released', worker .. ' claimed it and no agent came up')
  end
end

-- Every lease past its deadline ends; the ids of their runs. What is superseded and final is forgotten.
local function sweep()
  refuse_submitters()
  local expired = {}
  local late = redis.call('ZRANGEBYSCORE', key('leases'), '-inf', '(' .. whole(now), 'WITHSCORES')
  local up = #late > 0 and uptime()
  for i = 1, #late, 2 do
    if not is_sound(late[i]) then
      put_aside(late[i])
    elseif has_expired(late[i], tonumber(late[i + 1]), up) then
      expire(late[i])
      expired[#expired + 1] = late[i]
    end
  end
  for _, id in ipairs(redis.call('ZRANGE', key('superseded'), 0, -1)) do
    local state = get(id, 'state')
    if FINAL[state] then
      erase(id)
    elseif not state then
      redis.call('ZREM', key('superseded'), id)
    end
  end
  return expired
end
