"""All that the farm touches of Ray beyond its documented interface: what to open when Ray's version changes."""
