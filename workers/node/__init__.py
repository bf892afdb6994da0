"""This machine: what it is, and how it joins a farm and leaves it."""
