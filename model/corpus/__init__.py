"""From data.source to uint16 tokens: every split becomes one file, checked, fingerprinted and memory-mapped."""
