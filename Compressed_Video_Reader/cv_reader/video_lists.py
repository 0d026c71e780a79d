"""Lists of labelled videos: one per line, in one of three formats, which are recognised and named.

    comma     relative/path.mp4,12        the reference; several labels as 12;40
    space     relative/path.mp4 12        V-JEPA's
    colons    relative/path.mp4::12       V-JEPA's, where paths have spaces

All lines of a list are of one format, its dialect. The label is what follows the last
separator; a path may contain separators, too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cv_reader.errors import SampleError, SettingsError

DIALECTS = {"comma": ",", "colons": "::", "space": " "}
"""Name to separator; a line of numbers behind several separators counts for the first."""

_MAX_LINE_CHARS = 1 << 16
_MAX_LABEL_DIGITS = 9


@dataclass(frozen=True)
class LabelledVideo:
    """One line of a list.

    Attributes:
        video: path as written.
        labels: whole numbers from 0, at least one, distinct.
        where: file and line, for messages.
    """

    video: str
    labels: tuple[int, ...]
    where: str


def read_list(path: Path) -> tuple[str, list[LabelledVideo]]:
    """Read a list.

    Returns:
        Name of its dialect, and its lines in order.

    Raises:
        SettingsError: if it cannot be read, or is empty.
        SampleError: if its lines do not share a dialect, or a path occurs twice; naming the line.
    """
    lines = list(_lines(path))
    fitting = [
        name
        for name, separator in DIALECTS.items()
        if all(_split(text, separator) for _, text in lines)
    ]
    if not fitting:
        where, text = next(
            (line for line in lines if not _split(line[1], _best_separator(lines))), lines[0]
        )
        raise SampleError(
            f"{where}: a line must be path,label or path label or path::label, the same in all "
            f"lines, with a label of digits (several as 3;7); got {text[:200]!r}"
        )
    dialect = fitting[0]
    found: dict[str, LabelledVideo] = {}
    for where, text in lines:
        video, labels = _split(text, DIALECTS[dialect]) or ("", ())
        if first := found.get(video):
            raise SampleError(
                f"{where}: {video!r} is already in line {first.where}; remove one, as each clip "
                "must count once"
            )
        found[video] = LabelledVideo(video, labels, where)
    return dialect, list(found.values())


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    count = 0
    try:
        with path.open(encoding="utf-8-sig", newline=None) as stream:
            for number, text in enumerate(stream, 1):
                where = f"{path}:{number}"
                if len(text) > _MAX_LINE_CHARS:
                    raise SampleError(f"{where}: a line must have at most {_MAX_LINE_CHARS} chars")
                if text.strip():
                    count += 1
                    yield where, text.strip()
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise SampleError(f"{path}: must be UTF-8 text ({error.reason})") from error
    if not count:
        raise SettingsError(f"{path}: must have at least one line, got an empty list")


def _split(text: str, separator: str) -> tuple[str, tuple[int, ...]] | None:
    video, found, label = text.rpartition(separator)
    video, parts = video.strip().strip('"'), label.strip().split(";")
    is_number = all(
        part.isascii() and part.isdigit() and len(part) <= _MAX_LABEL_DIGITS for part in parts
    )
    if not found or not video or not is_number or "\0" in video:
        return None
    return video, tuple(dict.fromkeys(map(int, parts)))


def _best_separator(lines: list[tuple[str, str]]) -> str:
    counts = {
        separator: sum(_split(text, separator) is not None for _, text in lines)
        for separator in DIALECTS.values()
    }
    return max(counts, key=lambda separator: counts[separator])
