-- scores: what the models of runs are worth: of one run, of those of a study, or of all. A run that has adopted its
-- result has the scores of the run that trained.
--
-- KEYS[1] prefix    reads: order, study, run, scores
-- ARGV    'run', 'study' or 'all'; the run id or the study name
-- returns {{id, {score JSON, ...}}, ...} of those that have some

local kind, name = unpack(ARGV)
local ids = kind == 'run' and { name } or redis.call('ZRANGE', kind == 'study' and key('study', name) or key('order'), 0, -1)
local found = {}
for _, id in ipairs(ids) do
  local texts = redis.call('HVALS', key('scores', get(id, 'adopted') or id))
  if #texts > 0 then
    found[#found + 1] = { id, texts }
  end
end
return found
