"""A whole farm, with every process real; a package, so that the farm of its tests ends with the last of them."""
