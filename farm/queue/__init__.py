"""Who holds what: the promises of the queue over Redis, one Lua script a verb."""
