"""What you type: one file a command, thin."""
