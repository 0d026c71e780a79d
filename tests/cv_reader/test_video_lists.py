"""Lists of labelled videos: the dialect is found, and what has none is refused by line."""

from pathlib import Path

import pytest

from cv_reader.errors import CvReaderError
from cv_reader.video_lists import read_list


@pytest.mark.parametrize(
    ("text", "dialect", "video", "labels"),
    [
        ("a/b.mp4,3\nc.mp4,4\n", "comma", "a/b.mp4", (3,)),
        ("a/b c.mp4 3\r\nd.mp4 4\r\n", "space", "a/b c.mp4", (3,)),
        ("a b, c.mp4::3\nd.mp4::0", "colons", "a b, c.mp4", (3,)),
        ("a 1,2.mp4,3\n\nb,4\n", "comma", "a 1,2.mp4", (3,)),
        ("\ufeffa.mp4,3;7;3\n", "comma", "a.mp4", (3, 7)),
    ],
)
def test_the_dialect_is_found(
    tmp_path: Path, text: str, dialect: str, video: str, labels: tuple[int, ...]
) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(text.encode())
    found, rows = read_list(path)
    assert found == dialect
    assert (rows[0].video, rows[0].labels, rows[0].where) == (video, labels, f"{path}:1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at least one line"),
        ("a.mp4,1\nb.mp4 2\n", ":2: a line must"),
        ("a.mp4,1\nb.mp4,x\n", ":2: a line must"),
        ("a.mp4,1\na.mp4,2\n", ":2: 'a.mp4' is already"),
        ("a.mp4,-1\n", ":1: a line must"),
        ("a.mp4,99999999999\n", ":1: a line must"),
        ("path,label\na.mp4,1\n", ":1: a line must"),
    ],
)
def test_what_has_no_dialect_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(CvReaderError, match=message):
        read_list(path)
