-- omit: a run stays out, but its directory knows epochs of it: put, it begins above them. One that is there stays.
--
-- KEYS[1] prefix    writes: forgotten; reads: run
-- ARGV    id, its last epoch
-- returns 1 if that is news, else 0

refuse_submitters()
if get(ARGV[1], 'state') then
  return 0
end
return redis.call('HSETNX', key('forgotten'), ARGV[1], ARGV[2])
