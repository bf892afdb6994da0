"""The meaning of a study's results: differences, their error, and what it would take to know more."""
