"""Shim: ``python Compressed_Video_Reader/tool/stage1.py`` is ``cv_reader stage1``."""

import sys

from cv_reader.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["stage1", *sys.argv[1:]]))
