"""The parts that run once per farm: Redis, Ray with its dashboard, and the dispatcher that claims runs."""
