"""`python -m daemon`: the same as the `candled` command."""

from daemon.cli import run

if __name__ == "__main__":
    run()
