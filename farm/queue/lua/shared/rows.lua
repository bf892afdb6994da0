-- Which runs an answer is about, and how it spells each of them.

-- The words of a text with spaces between.
local function words(text)
  local found = {}
  for word in text:gmatch('%S+') do
    found[#found + 1] = word
  end
  return found
end

-- A run as JSON: its id, these fields of its hash, and its causes and result; false if it is not there.
local function spelled(id, fields)
  local run = redis.call('HMGET', key('run', id), unpack(fields))
  if not run[1] then
    return false
  end
  run[#run + 1] = redis.call('LRANGE', key('causes', id), 0, -1)
  run[#run + 1] = redis.call('GET', key('result', id)) or redis.call('GET', key('result', get(id, 'adopted') or ''))
  table.insert(run, 1, id)
  return cjson.encode(run)
end

-- Whether a run is `name` ('one'), one of the study `name` ('study'), or any ('all'); evaluations never are.
local function is_among(which, name, id)
  if is_evaluation(id) then
    return false
  end
  return which == 'all' or which == 'one' and id == name
    or which == 'study' and redis.call('ZSCORE', key('study', name), id)
end
