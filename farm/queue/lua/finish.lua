-- finish: the run has succeeded, with this result, for good (Q5), and with these scores. Of an evaluation, the result is
-- its score, and the scores are those of the run that trained.
--
-- KEYS[1] prefix    reads and writes: leases, run, result, scores, counts, events
-- ARGV    id, epoch, steps, result as canonical JSON, its tokens a second or '', its losses or '',
--         {evaluation, score as JSON}...
-- returns {'ok'}; also when it is repeated, {'conflict'}: it finished with another result, {'cancelled'} (Q8),
--         {'lost'} (Q4)

local id, epoch, steps, result, speed, losses = unpack(ARGV)
if not holds(id, epoch) then
  local stored = redis.call('GET', key('result', id))
  if stored == result then
    return { 'ok' }
  end
  return { stored and get(id, 'epoch') == epoch and 'conflict' or 'lost' }
end
if get(id, 'cancelling') then
  return { 'cancelled' }
end
redis.call('SET', key('result', id), result)
keep_scores(get(id, 'of') or id, 7)
set(id, 'step', steps)
if speed ~= '' then
  set(id, 'speed', speed, 'losses', losses)
end
settle(id, 'succeeded', 'step ' .. steps)
return { 'ok' }
