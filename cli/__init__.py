"""The commands that you type: one thin file each."""
