"""The physics: torch, and nothing that knows of queues, clusters or terminals."""
