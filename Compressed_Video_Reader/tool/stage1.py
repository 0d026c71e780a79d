"""Shim: ``python Compressed_Video_Reader/tool/stage1.py`` is ``cv_reader stage1``."""

import sys

from cv_reader.commands.stage1 import main

if __name__ == "__main__":
    sys.exit(main())
