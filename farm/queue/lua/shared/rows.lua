-- Which runs an answer is about, and how it spells each of them.

-- The words of a text with spaces between.
local function words(text)
  local found = {}
  for word in text:gmatch('%S+') do
    found[#found + 1] = word
  end
  return found
end

-- What belongs to a run and is not in its hash.
local BESIDE = {
  causes = function(id) return redis.call('LRANGE', key('causes', id), 0, -1) end,
  cause = function(id) return redis.call('LINDEX', key('causes', id), -1) end, -- the last
  result = function(id)
    return redis.call('GET', key('result', id)) or redis.call('GET', key('result', get(id, 'adopted') or ''))
  end,
}

-- A run as JSON: its id, and these fields of its hash or beside it; false if it is not there.
local function spelled(id, fields)
  local run = redis.call('HMGET', key('run', id), unpack(fields))
  if not run[1] then
    return false
  end
  for i, field in ipairs(fields) do
    if BESIDE[field] then
      run[i] = BESIDE[field](id)
    end
  end
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
