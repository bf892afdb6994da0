"""What the results of a study mean: differences, their error, and what it would take to know more."""
