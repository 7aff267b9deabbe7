"""`python -m daemon`: the same as the `candled` command."""

import sys

from daemon.cli import main

if __name__ == "__main__":
    sys.exit(main())
