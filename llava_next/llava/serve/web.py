"""Serve a checkpoint with a page to talk to it in the browser.

Run: ``python -m llava.serve.web --model-path DIR [--port 8000]``

The same server as ``llava.serve.api``, and a page at its root: a video or picture, how it is shown,
the kept patches over the playing video and on a time line, streamed answers that can be stopped,
follow-up questions, tokens and seconds. The page loads nothing from elsewhere.
"""

import sys
from collections.abc import Sequence

from llava.serve.api import serve
from llava.serve.page.routes import add_page


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until the process is ended; return the exit code."""
    return serve(argv, "llava.serve.web", add_page)


if __name__ == "__main__":
    sys.exit(main())
