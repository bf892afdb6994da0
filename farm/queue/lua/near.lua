-- near: the run ids that begin as this one does, as far as some do: what was meant may be among them.
--
-- KEYS[1] prefix    reads: ids
-- ARGV    an id that no run has; most to return
-- returns the ids

local start, found = ARGV[1], {}
repeat
  found = ids_from(start, ARGV[2])
  start = start:sub(1, -2)
until #found > 0 or start == ''
return found
