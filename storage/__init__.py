"""The vocabulary and the disk: synchronous, no tasks, no network."""
