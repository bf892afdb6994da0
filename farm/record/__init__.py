"""What was recorded, and where it lies."""
