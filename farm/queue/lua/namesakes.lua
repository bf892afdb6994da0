-- namesakes: the other runs of the same training, under the names of other arms or studies.
--
-- KEYS[1] prefix    reads: run, digests
-- ARGV    run ids...
-- returns {id, ...}

local found = {}
for _, id in ipairs(ARGV) do
  for _, other in ipairs(alike(get(id, 'digest') or '')) do
    if other ~= id then
      found[#found + 1] = other
    end
  end
end
return found
