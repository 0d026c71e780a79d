"""Shim: ``python Compressed_Video_Reader/tool/stage2.py`` is ``cv_reader stage2``."""

import sys

from cv_reader.commands.stage2 import main

if __name__ == "__main__":
    sys.exit(main())
