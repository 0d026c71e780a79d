"""Shim: this path is ``cv_reader precompute``."""

import sys

from cv_reader.commands.precompute import main

if __name__ == "__main__":
    sys.exit(main())
