"""Fetch a benchmark's videos from the data hub into the folder where lmms-eval looks for them.

Archives (zip, tar, tar cut into parts) are unpacked next to that folder and renamed when all are
done, so a folder that exists is complete; an interrupted run continues where it stopped. Videos
that the repository stores unpacked get a link.
"""

import hashlib
import io
import re
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llava.eval.benchmarks.table import VIDEO_SUFFIXES, Benchmark
from run_kit.exits import say

_TAR = re.compile(
    r"(?P<name>.+\.(tar\.gz|tgz|tar))([._-]?(part[._-]?[a-z0-9]{1,4}|[0-9]{1,4}|[a-z]{2}))?", re.I
)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MARKERS = ".unpacked"
_CHUNK_BYTES = 1 << 20


class DownloadError(ValueError):
    """The videos of a benchmark could not be fetched."""


def download(benchmark: Benchmark, hf_home: Path) -> None:
    """Fetch and unpack, so that ``<hf_home>/<cache_folder>`` exists.

    Raises:
        DownloadError: no hub can be reached, it refuses, or an archive is damaged.
    """
    snapshot = _snapshot(benchmark)
    _check_content(benchmark, snapshot)
    target = hf_home / benchmark.cache_folder
    partial = target.with_name(f".{target.name}.partial")
    markers = partial / _MARKERS
    markers.mkdir(parents=True, exist_ok=True)
    for number, archive in enumerate(_archives(snapshot)):
        marker = markers / str(number)
        if not marker.exists():
            say(f"{benchmark.name}: unpacking {archive[0].name}")
            _unpack(archive, partial)
            marker.touch()
    for video in _loose_videos(snapshot):
        link = partial / video.relative_to(snapshot)
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink() and not link.exists():
            link.symlink_to(video)
    for marker in markers.iterdir():
        marker.unlink()
    markers.rmdir()
    partial.rename(target)


def _snapshot(benchmark: Benchmark) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    # The bases name the errors of the HTTP library, whichever the installed version uses.
    errors: Any = (OSError, *HfHubHTTPError.__bases__)
    try:
        return Path(
            snapshot_download(
                repo_id=benchmark.dataset, repo_type="dataset", revision=benchmark.revision
            )
        )
    except errors as error:
        terms = " and accept its terms on its page" if benchmark.gated else ""
        raise DownloadError(
            f"{benchmark.name}: {benchmark.dataset} cannot be fetched from the data hub "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}); "
            "start again to continue where it stopped; where it asks for an account, log in (hf "
            f"auth login){terms}; without a hub, put the "
            f"videos below <HF_HOME>/{benchmark.cache_folder}/{benchmark.video_root} yourself"
        ) from error


def _check_content(benchmark: Benchmark, snapshot: Path) -> None:
    """Compare every large file with its SHA-256, which is the name it is stored under."""
    for path in sorted(snapshot.rglob("*")):
        stored = path.resolve()
        if not _SHA256.fullmatch(stored.name):
            continue
        digest = _sha256(stored)
        if digest != stored.name:
            path.unlink()
            stored.unlink()
            raise DownloadError(
                f"{benchmark.name}: {path.relative_to(snapshot)}: arrived damaged (SHA-256 "
                f"{digest} where the hub states {stored.name}) and was removed; start again to "
                "fetch it once more"
            )


def _archives(snapshot: Path) -> list[tuple[Path, ...]]:
    """Return every archive as the files that it consists of, in a fixed order."""
    tars: dict[str, list[Path]] = defaultdict(list)
    zips: list[tuple[Path, ...]] = []
    for path in sorted(snapshot.rglob("*")):
        tar = _TAR.fullmatch(path.relative_to(snapshot).as_posix())
        if path.suffix.lower() == ".zip":
            zips.append((path,))
        elif tar and path.is_file():
            tars[tar["name"]].append(path)
    return zips + [tuple(parts) for parts in tars.values()]


def _loose_videos(snapshot: Path) -> Iterator[Path]:
    return (path for path in snapshot.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)


def _unpack(archive: Sequence[Path], folder: Path) -> None:
    try:
        if archive[0].suffix.lower() == ".zip":
            with zipfile.ZipFile(archive[0]) as content:
                content.extractall(folder)
            return
        with (
            io.BufferedReader(_Parts(archive)) as stream,
            tarfile.open(fileobj=stream, mode="r|*") as content,
        ):
            content.extractall(folder, filter="data")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise DownloadError(
            f"{archive[0]} cannot be unpacked: {error}; remove the file and start again"
        ) from error


class _Parts(io.RawIOBase):
    """Files read as one, without a joined copy on disk."""

    def __init__(self, parts: Sequence[Path]) -> None:
        self._left = list(parts)
        self._stream: io.BufferedIOBase = io.BytesIO()

    def readable(self) -> bool:
        """Return True: parts can always be read."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill a buffer with the next bytes; 0 at the end of the last file."""
        while not (data := self._stream.read(min(len(buffer), _CHUNK_BYTES))):
            self._stream.close()
            if not self._left:
                self._stream = io.BytesIO()
                return 0
            self._stream = self._left.pop(0).open("rb")
        buffer[: len(data)] = data
        return len(data)


def _sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file; reads it in pieces of 1 MiB.

    ``hashlib.file_digest`` needs Python 3.11.
    """
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
