"""``python -m llava.eval.report``."""

import sys

from llava.eval.report.page import main

if __name__ == "__main__":
    sys.exit(main())
