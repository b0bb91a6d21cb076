"""`python -m nanogpt` is the `nanogpt` command."""
import sys

from .cli import main

if __name__ == "__main__":  # a process that multiprocessing starts reads this file too
    sys.exit(main())
