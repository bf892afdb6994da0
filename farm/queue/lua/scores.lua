-- scores: what the models of runs are worth: of those named, or of a page of those of a study or of all. A run that has
-- adopted its result has the scores of the run that trained.
--
-- KEYS[1] prefix    reads: order, study, run, scores
-- ARGV    'runs', 'study' or 'all'; the study name; where the page begins, '' for the first one; most runs to look at; for
--         'runs' their ids...
-- returns {where the next page begins or '', {id, {score JSON, ...}}, ...} of those that have some

local kind, name, after, most = unpack(ARGV)
local ids, rest = { unpack(ARGV, 5) }, ''
if kind ~= 'runs' then
  ids, rest = page_of(kind == 'study' and key('study', name) or key('order'), after, tonumber(most))
end
local found = { rest }
for _, id in ipairs(ids) do
  local texts = redis.call('HVALS', key('scores', get(id, 'adopted') or id))
  if #texts > 0 then
    found[#found + 1] = { id, texts }
  end
end
return found
