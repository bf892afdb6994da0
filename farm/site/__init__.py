"""Where this farm is, and the way to its Redis."""
