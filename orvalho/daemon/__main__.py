"""`python -m orvalho.daemon`: what the CLI starts."""

import sys

from orvalho.daemon.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
