"""``python -m llava.train.report``."""

import sys

from llava.train.report.page import main

if __name__ == "__main__":
    sys.exit(main())
