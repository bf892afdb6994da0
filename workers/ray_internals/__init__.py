"""All uses of Ray beyond its documented interface: the room to open when Ray's version changes."""
