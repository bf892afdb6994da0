"""One attempt: the agent that holds its lease, and the processes that train or score."""
