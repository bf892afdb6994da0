"""The records, and where they lie."""
