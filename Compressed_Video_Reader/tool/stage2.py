"""Shim: ``python Compressed_Video_Reader/tool/stage2.py`` is ``cv_reader stage2``."""

import sys

from cv_reader.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["stage2", *sys.argv[1:]]))
