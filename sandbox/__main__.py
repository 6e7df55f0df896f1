"""`python -m sandbox`: the same as `vpd sandbox`."""

import sys

from sandbox.command import main

if __name__ == "__main__":
    sys.exit(main(prog="python -m sandbox"))
