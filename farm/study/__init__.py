"""What is asked: recipes, machines, plans, runs and studies."""
