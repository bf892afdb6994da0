-- members: a page of the ids of a study's runs, in the order they were put.
--
-- KEYS[1] prefix    reads: study
-- ARGV    study name; where the page begins, '' for the first one; most ids
-- returns {where the next page begins or '', id, ...}

local ids, rest = page_of(key('study', ARGV[1]), ARGV[2], tonumber(ARGV[3]))
return { rest, unpack(ids) }
