"""Models trained elsewhere: published losses and run folders, as studies and imported losses."""
