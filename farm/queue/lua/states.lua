-- states: where runs stand, and nothing else of them.
--
-- KEYS[1] prefix    reads: run
-- ARGV    run ids...
-- returns {state or false for each, in the order given}

local found = {}
for _, id in ipairs(ARGV) do
  found[#found + 1] = get(id, 'state')
end
return found
