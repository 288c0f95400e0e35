"""``python -m flowship.runtime`` is the command ``flowship``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
