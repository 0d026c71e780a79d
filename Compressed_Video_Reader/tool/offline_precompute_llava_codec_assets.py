"""Shim: this path is ``cv_reader precompute``."""

import sys

from cv_reader.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["precompute", *sys.argv[1:]]))
