"""`python -m orvalho` is the command `orvalho`."""

from orvalho.cli.main import entry

if __name__ == "__main__":
    entry()
