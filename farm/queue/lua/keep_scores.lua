-- keep_scores: the scores that the directory of a run holds, of a run that has succeeded.
--
-- KEYS[1] prefix    reads: run; writes: scores
-- ARGV    id, {evaluation, score as JSON}...
-- returns how many were kept

refuse_submitters()
if get(ARGV[1], 'state') ~= 'succeeded' then
  return 0
end
return keep_scores(ARGV[1], 2)
