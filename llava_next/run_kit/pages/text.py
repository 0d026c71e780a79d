"""Numbers and durations as short text, for pages and the console; names that may be broken."""

from html import escape


def breakable(name: str) -> str:
    """Return a name as HTML that a narrow column breaks after its underscores and slashes alone."""
    return escape(name).replace("_", "_<wbr>").replace("/", "/<wbr>")


def short_number(value: float) -> str:
    """Return a number in at most about seven characters: 1.25M, 40k, 0.02, 2e-06."""
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            scale = limit if letter != "k" else 1e3
            return f"{value / scale:.4g}{letter}"
    return f"{value:.4g}"


def duration_text(seconds: float) -> str:
    """Return a duration with its units: 7.3 s, 3 min 20 s, 5 h 03 min, 2 d 05 h.

    ``cv_reader.commands.progress`` has the same: ``cv_reader`` imports no other package.
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24:02} h"
