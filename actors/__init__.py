"""What happens: tasks and the pure functions they run."""
