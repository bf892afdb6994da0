"""Descriptions of the work: recipes, machines, plans, runs and studies."""
