-- What the verbs share begins here: the names of the keys, the clock, and a run's fields. These files are prepended to
-- every verb, in the order of SHARED in scripts.py.
--
-- KEYS[1]           the prefix; every key is <prefix><role> or <prefix><role>:<name>
--
--   run:<id>        hash    the run (spec, machine, arm, digest, corpus, study, priority and order as `score`, limit), its
--                           state, its lease (epoch, deadline, length, worker, job, node, renewed, why it is wanted back
--                           as `recalled`), the run whose result it has (`adopted`), the tokens a second of its own result
--                           (`speed`), the `losses` of its result that listings show, its progress (step of `steps`,
--                           checkpoint), its failures (attempts, crash_step, crashes),
--                           `cancelling`, `not_before`, the ms under ended leases (`held`), why the last lease was given
--                           back (`released`), the `evaluations` of its model with spaces between, which deadline was
--                           first seen missed when, where INFO is forbidden (`late`)
--   causes:<id>     list    why attempts failed: "<ms> <epoch> <json>"
--   result:<id>     string  the result, canonical JSON
--   scores:<id>     hash    evaluation -> what its model is worth, JSON
--   curve:<id>      list    points of the curve, JSON arrays that begin with the step, steps ascending
--   events:<id>     stream  what happened to the run, bounded
--   sequence        string  runs and evaluations ever put
--   changes         string  how often the state or the epoch of a run or evaluation has changed
--   moves           zset    the ids that changed last, by the number of their last change; `*`, for a change of the lists
--   order           zset    run ids in the order they were put
--   unfinished      zset    those of them that are queued or running, by the same scores
--   ids             zset    run ids, all with the score 0, so that they can be found by how they begin
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
--   announcing:<service> string token of the dispatcher that tells a service what happened, while it does
--   announced:<service> hash what a service was told: name of a fact -> its number then; `since` once it was told of first
--   machines        hash    machine class -> facts, JSON
--   probes:<class>  hash    probe key -> largest microbatch
--   nodes:<class>   zset    nodes that offer the class, by the ms when their registration ends
--   supply          string  what an autoscaler can start, JSON; gone when the farm that said so is
--   rentals         hash    name of a rented machine -> its record, JSON: wanted, paid for, or ended lately
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
