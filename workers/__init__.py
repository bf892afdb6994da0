"""A machine at work: the only place that imports ray."""
