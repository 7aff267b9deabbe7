"""How candled starts and ends."""

__version__ = "0.1.0"
