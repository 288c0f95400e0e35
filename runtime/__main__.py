"""``python -m flowship.runtime`` is the command ``flowship``."""

import sys

from .program import run

if __name__ == "__main__":
    sys.exit(run())
