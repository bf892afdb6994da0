-- statuses: the runs that are named, or a page of all runs, of those that are queued or running (`open`), of those of a
-- study or of those that it pays for, since it submitted them first, in the order they were put; of those under a lease,
-- by their ids; or of evaluations, which are not among the runs. A page is as things stand at one instant. Asked for the
-- changes since the first page, it has the listed runs whose state has changed, as they are now: with them all pages are
-- of this instant (Q9).
--
-- KEYS[1] prefix    reads: order, unfinished, evaluations, study, superseded, leases, run, causes, result, changes, moves
-- ARGV    'these', 'all', 'open', 'paid', 'study', 'running' or 'evaluations'; the study name; fields of a run (of its hash,
--         'causes', its last 'cause' or 'result') with spaces between, of which each run has the first; where the page
--         begins, '' for the first one, or '@' and the number of a change; most runs to look at; for 'these' the run ids...
-- returns {where the next page begins or '', number of the last change, after '@' the ids that changed since as a JSON
--         array, or false if the lists themselves have, else '', JSON array per run: id, then those fields...}

local which, study, after, most = ARGV[1], ARGV[2], ARGV[4], tonumber(ARGV[5])

-- Deadlines change between two pages, ids do not.
local function page_of_leases()
  local all, ids = redis.call('ZRANGE', key('leases'), 0, -1), {}
  table.sort(all)
  for _, id in ipairs(all) do
    if id > after then
      if #ids == most then
        return ids, ids[most]
      end
      ids[#ids + 1] = id
    end
  end
  return ids, ''
end

-- None where the lists changed, or where the oldest of these changes may be out of memory.
local function moved_since(number)
  local ids = redis.call('ZRANGEBYSCORE', key('moves'), '(' .. number, '+inf')
  local lists = tonumber(redis.call('ZSCORE', key('moves'), '*') or nil) or 0
  if #ids >= MOVES or lists > tonumber(number) then
    return nil
  end
  return ids
end

local function page()
  if which == 'these' then
    return { unpack(ARGV, 6) }, ''
  elseif after:sub(1, 1) == '@' then
    return moved_since(after:sub(2)), ''
  elseif which == 'running' then
    return page_of_leases()
  end
  local lists = { all = 'order', open = 'unfinished', evaluations = 'evaluations' }
  local ids, rest = page_of(lists[which] and key(lists[which]) or key('study', study), after, most)
  if which == 'paid' and rest == '' then -- what trains on though its arm has another recipe now is in no study
    for _, id in ipairs(redis.call('ZRANGE', key('superseded'), 0, -1)) do
      ids[#ids + 1] = id
    end
  end
  return ids, rest
end

local function is_wanted(id)
  if which == 'open' then
    return not is_evaluation(id) and not FINAL[get(id, 'state')]
  elseif which == 'paid' then
    return get(id, 'study') == study and not is_evaluation(id)
  elseif which == 'study' then
    return redis.call('ZSCORE', key('study', study), id)
  elseif which == 'running' then
    return redis.call('ZSCORE', key('leases'), id)
  end
  return which == 'these' or is_evaluation(id) == (which == 'evaluations')
end

local fields = words(ARGV[3])
local ids, rest = page()
local found = { rest, redis.call('GET', key('changes')) or '0', '' }
if after:sub(1, 1) == '@' then
  found[3] = not ids and 'false' or #ids > 0 and cjson.encode(ids) or '[]'
end
for _, id in ipairs(ids or {}) do
  found[#found + 1] = is_wanted(id) and spelled(id, fields) or nil
end
return found
