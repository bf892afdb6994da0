"""Words, promises and records: light enough for a laptop. No torch, no ray."""
