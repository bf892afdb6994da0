-- reached: the newest point of a run's curve, and the newest one with a validation.
--
-- KEYS[1] prefix    reads: curve
-- ARGV    id
-- returns {point, point}, {point} without any validation, or {} without any point

return newest_points(ARGV[1])
