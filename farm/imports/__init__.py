"""What others have trained: published losses and run folders, as studies and imported losses."""
