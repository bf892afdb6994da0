-- fail: an attempt failed. Queued again after a back-off, or failed: not retryable, attempts spent, poison (Q6).
--
-- KEYS[1] prefix    reads and writes: leases, run, queue, delayed, causes, counts, events
-- ARGV    id, epoch, token, step, '1' if retryable, name of the cause, cause JSON, first back-off in ms, longest back-off in ms
-- returns {'ok', state}, {'lost'} (Q4)
--
-- A call whose reply got lost is repeated with the same token, and answered again.

local id, epoch, token, step, retryable, name, cause, first, longest = unpack(ARGV)
if not holds(id, epoch) then
  if get(id, 'closed_by') == token then
    return { 'ok', get(id, 'state') }
  end
  return { 'lost' }
end

local function delay(attempts)
  return math.min(first * 2 ^ (attempts - 1), tonumber(longest))
end

set(id, 'closed_by', token, 'step', step)
count_failure(id, name, cause, tonumber(step), retryable == '1', delay)
return { 'ok', get(id, 'state') }
