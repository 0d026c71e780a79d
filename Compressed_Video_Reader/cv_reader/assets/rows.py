"""Stream the rows of a data set: a ``.json`` array, or the lines of a ``.jsonl``.

Neither is ever held as a whole, and no row may be longer than ``MAX_ELEMENT_CHARS``.
"""

import json
from collections.abc import Iterator
from json import JSONDecodeError
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from cv_reader.errors import SampleError, SettingsError
from cv_reader.remote.videos import local_list

CHUNK_CHARS = 1 << 20
MAX_ELEMENT_CHARS = 1 << 25
_LONGEST_TOKEN_CHARS = 16
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LINE_ENDS = ("\n", "", "\r\n")
_LONGEST_NUMBER_CHARS = 400

Row = dict[str, Any]


def _number(digits: str) -> float:
    """Parse a whole number; one of absurd length becomes an infinity, which no field accepts."""
    return int(digits) if len(digits) <= _LONGEST_NUMBER_CHARS else float(digits)


_DECODER = json.JSONDecoder(parse_int=_number)


def read_rows(path: Path) -> Iterator[tuple[str, Row | SampleError]]:
    """Stream the rows of a data set, each with where it is ("file:line" or "file[element]").

    A broken line of a ``.jsonl`` comes as the error that describes it. Reading a ``.json`` array
    cannot continue behind a syntax error, so that is raised.

    Raises:
        SettingsError: if the file cannot be opened or its suffix is unknown.
        SampleError: if a ``.json`` file is no array, or ends before the array does.
    """
    readers = {".json": _array_rows, ".jsonl": _line_rows}
    if path.suffix not in readers:
        raise SettingsError(f"{path}: a data set must end in .json or .jsonl")
    try:
        yield from readers[path.suffix](path)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _line_rows(path: Path) -> Iterator[tuple[str, Row | SampleError]]:
    name = str(path)
    with local_list(path) as local, local.open("rb", buffering=CHUNK_CHARS) as stream:
        number = 0
        while line := stream.readline(MAX_ELEMENT_CHARS):
            number += 1
            where = f"{name}:{number}"
            if len(line) == MAX_ELEMENT_CHARS and not line.endswith(b"\n"):
                _skip_line(stream)
                yield (
                    where,
                    SampleError(
                        f"{where}: a line must have fewer than {MAX_ELEMENT_CHARS} bytes; remove it"
                    ),
                )
            elif not line.isspace():
                yield where, _parse_line(line, where)


def _skip_line(stream: BinaryIO) -> None:
    while (part := stream.readline(CHUNK_CHARS)) and not part.endswith(b"\n"):
        pass


def _parse_line(line: bytes, where: str) -> Row | SampleError:
    try:
        text = line.removeprefix(_BYTE_ORDER_MARK).decode()
        content, end = _DECODER.raw_decode(text) if text.startswith("{") else (None, 0)
        if text[end:] not in _LINE_ENDS:
            # No object, white space around it, or a fault, which this describes.
            content = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        return SampleError(f"{where}: not valid JSON ({error}); repair or remove the line")
    return _as_row(content, where)


def _as_row(content: Any, where: str) -> Row | SampleError:
    if not isinstance(content, dict):
        kind = type(content).__name__
        return SampleError(f"{where}: a sample must be a JSON object, got {kind}; repair it")
    return cast("Row", content)


def _array_rows(path: Path) -> Iterator[tuple[str, Row | SampleError]]:
    with local_list(path) as local, local.open(encoding="utf-8-sig") as stream:
        for number, content in enumerate(_ArrayStream(path, stream)):
            where = f"{path}[{number}]"
            yield where, _as_row(content, where)


class _ArrayStream:
    """Elements of a JSON array, parsed from a buffer that is filled chunk by chunk.

    ``llava.data.sources.entry_index`` reads arrays too, for the place of each element in the file.
    """

    def __init__(self, path: Path, stream: TextIO) -> None:
        self._path, self._stream = path, stream
        self._buffer, self._position, self._ended = "", 0, False
        self._lines_before = 0

    def __iter__(self) -> Iterator[Any]:
        if self._next_char() != "[":
            raise self._broken("a .json data set must be one array of objects")
        self._position += 1
        if self._next_char() == "]":
            return
        while True:
            yield self._element()
            separator = self._next_char()
            self._position += 1
            if separator == "]":
                return
            if separator != ",":
                raise self._broken(f"expected ',' or ']' after an element, got {separator!r}")

    def _next_char(self) -> str:
        """Skip white space and return what follows; "" at the end of the file."""
        while True:
            while self._position < len(self._buffer):
                if not self._buffer[self._position].isspace():
                    return self._buffer[self._position]
                self._position += 1
            if not self._refill():
                return ""

    def _refill(self) -> bool:
        try:
            chunk = self._stream.read(CHUNK_CHARS)
        except UnicodeDecodeError as error:
            raise self._broken(f"not UTF-8 ({error.reason})") from error
        self._lines_before += self._buffer.count("\n", 0, self._position)
        self._buffer, self._position = self._buffer[self._position :] + chunk, 0
        self._ended = not chunk
        return not self._ended

    def _element(self) -> Any:
        self._next_char()
        while True:
            try:
                element, end = _DECODER.raw_decode(self._buffer, self._position)
            except (JSONDecodeError, RecursionError) as error:
                if not self._is_cut(error) or not self._refill():
                    raise self._broken(str(error)) from error
            else:
                self._position = end
                return element

    def _is_cut(self, error: JSONDecodeError | RecursionError) -> bool:
        """Return whether more text may help: the error is at the end of the buffer."""
        if isinstance(error, RecursionError):
            return False
        size = len(self._buffer) - self._position
        at_end = error.pos >= len(self._buffer) - _LONGEST_TOKEN_CHARS
        return size < MAX_ELEMENT_CHARS and (at_end or "Unterminated string" in error.msg)

    def _broken(self, reason: str) -> SampleError:
        line = self._lines_before + self._buffer.count("\n", 0, self._position) + 1
        return SampleError(f"{self._path}:{line}: {reason}; repair the file")
