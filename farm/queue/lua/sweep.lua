-- sweep: end every expired lease (Q3).
--
-- KEYS[1] prefix    reads and writes: leases, run, queue, causes, counts, events
-- returns the ids of the runs that had them

return sweep()
