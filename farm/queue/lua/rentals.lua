-- rentals: every machine that this farm rents, wants to rent, or has rented lately.
--
-- KEYS[1] prefix    reads: rentals
-- returns names and records, flat

return redis.call('HGETALL', key('rentals'))
