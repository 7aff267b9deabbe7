"""How candled starts and ends."""
