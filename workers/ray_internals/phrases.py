"""Phrases in Ray's messages, for failures that only their words tell apart."""

TOO_SLOW = "timed out during startup"  # Ray waits 30 s for its raylet, whatever it is told
NODE_DIED = "because its node has died"  # of an actor; Ray has no class for that
JOB_BEGINS = "Running entrypoint for job "  # the message of a job that has said nothing itself
NO_SUCH_JOB = "does not exist"
