"""What runs once a farm: Redis, Ray with its dashboard, and the dispatcher that claims runs."""
