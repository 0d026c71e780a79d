"""One bounded folder of fetched files that all processes of a machine share.

A file is named by its address, size, time and tag, so that a changed object is another file. It is
fetched under a temporary name and renamed. Whoever uses one holds a shared lock on it, which ends
with the process; room is made by removing those that were used longest ago and are not locked. Its
modification time is the object's, its access time says when it was last used.

Folders of assets that evaluation, chat and server compute are bounded in the same way, where they
are: ``in_use`` and ``keep_within``.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

from cv_reader.errors import SettingsError
from cv_reader.remote.transfer import RemoteFile, TransferError, fetch_file, fetch_span

ROOT_VARIABLE, SIZE_VARIABLE = "CV_READER_CACHE", "CV_READER_CACHE_GB"
DEFAULT_GB = 20.0
_BYTES_PER_GB = 10**9
_TEMPORARY, _WITH_HOLES, _REMOVED = ".fetching-", ".partial-", ".removed-"
_DISK_BLOCK_BYTES = 512
_MAX_NAME_CHARS = 80
_WAIT_SECONDS, _MAX_WAIT_SECONDS = 0.05, 600.0


@dataclass(frozen=True)
class LocalCache:
    """A bounded folder of fetched files.

    Attributes:
        root: the folder; made when the first file is fetched.
        max_bytes: fetched files have no more than this together.
    """

    root: Path
    max_bytes: int

    @property
    def files(self) -> Path:
        """Return the folder of fetched files."""
        return self.root / "files"

    def output(self, address: str) -> Path:
        """Return the folder of this machine where a run prepares what it writes to an address."""
        return self.root / "outputs" / hashlib.sha256(address.rstrip("/").encode()).hexdigest()[:16]

    @contextlib.contextmanager
    def opened(self, file: RemoteFile) -> Generator[Path]:
        """Give the path of an object's content, which stays there for the length of the block.

        Raises:
            OSError: It cannot be fetched, or the folder cannot be written.
            TransferError: It is larger than the cache, or all else in the cache is in use.
        """
        target = self.files / _name(file)
        handle = self._locked(target)
        while handle is None:
            self._put(target, file.size_bytes, file.mtime_ns, lambda path: fetch_file(file, path))
            handle = self._locked(target)
        try:
            yield target
        finally:
            os.close(handle)

    def read(self, file: RemoteFile, start: int = 0, end: int | None = None) -> bytes:
        """Return the content of an object, or some bytes of it, which are a file of the cache then.

        Raises:
            OSError: As ``opened``.
        """
        if end is None:
            with self.opened(file) as path:
                return path.read_bytes()
        target = self.files / f"{_name(file)}-{start}-{end}"
        handle = self._locked(target)
        if handle is None:
            content = fetch_span(file, start, end)
            self._put(target, len(content), 0, lambda path: _overwrite(path, content))
            return content
        try:
            return target.read_bytes()
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def scratch(self, file: RemoteFile) -> Generator[Path]:
        """Give an empty file of this process; its holes do not count.

        Raises:
            OSError: As ``opened``.
        """
        target = self.files / f"{_WITH_HOLES}{uuid.uuid4().hex}{_suffix(file)}"
        handle = self._reserve(target, 0)
        try:
            yield target
        finally:
            target.unlink(missing_ok=True)
            os.close(handle)

    def _locked(self, target: Path) -> int | None:
        """Return a handle that keeps a file in the cache; None where the cache lacks it."""
        try:
            handle = os.open(target, os.O_RDONLY)
        except FileNotFoundError:
            return None
        fcntl.flock(handle, fcntl.LOCK_SH)
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(target)
            if os.path.samestat(found, os.fstat(handle)):
                os.utime(target, ns=(time.time_ns(), found.st_mtime_ns))
                return handle
        os.close(handle)
        return None

    def _put(self, target: Path, size: int, mtime_ns: int, write: Callable[[Path], None]) -> None:
        """Put a file in place, unless another process does so meanwhile."""
        self._make_root()
        with self._lock(f".lock-{target.name[:3]}"):
            if target.exists():
                return
            temporary = self.files / f"{_TEMPORARY}{uuid.uuid4().hex}"
            handle = self._reserve(temporary, size)
            try:
                write(temporary)
                os.utime(temporary, ns=(time.time_ns(), mtime_ns))
                os.rename(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)
                os.close(handle)

    def _make_root(self) -> None:
        try:
            self.files.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"the cache {self.root} cannot be made ({error.strerror})") from error

    @contextlib.contextmanager
    def _lock(self, name: str) -> Generator[None]:
        handle = os.open(self.files / name, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _reserve(self, temporary: Path, size: int) -> int:
        """Make room, and a locked file that takes it; wait while all else is in use."""
        if size > self.max_bytes:
            raise TransferError(
                f"a file of {size} bytes exceeds the cache of {self.max_bytes} (--cache_gb or"
                f" {SIZE_VARIABLE})"
            )
        self._make_root()
        deadline = time.monotonic() + _MAX_WAIT_SECONDS
        while True:
            with self._lock(".lock"):
                if self._make_room(self.max_bytes - size):
                    handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
                    fcntl.flock(handle, fcntl.LOCK_EX)
                    os.ftruncate(handle, size)
                    return handle
            if time.monotonic() > deadline:
                raise TransferError(
                    f"no room for {size} bytes in the cache {self.root}: all of its "
                    f"{self.max_bytes} bytes (--cache_gb) are in use"
                )
            time.sleep(_WAIT_SECONDS)

    def _make_room(self, allowed: int) -> bool:
        """Remove files until those left have ``allowed`` bytes at most; False where they do not."""
        entries: list[tuple[int, int, str]] = []
        with os.scandir(self.files) as found:
            for entry in found:
                if not entry.name.startswith(".lock"):
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat()
                        is_temporary = entry.name.startswith((_TEMPORARY, _WITH_HOLES))
                        has_holes = entry.name.startswith(_WITH_HOLES)
                        size = status.st_blocks * _DISK_BLOCK_BYTES if has_holes else status.st_size
                        age = -1 if is_temporary else status.st_atime_ns
                        entries.append((age, size, entry.path))
        total = sum(size for _, size, _ in entries)
        for age, size, path in sorted(entries):
            # A temporary file without a lock was left by a process that was killed.
            if (total > allowed or age < 0) and _remove_unused(path):
                total -= size
        return total <= allowed


def _remove_unused(path: str | Path, remove: Callable[[str | Path], None] = os.unlink) -> bool:
    """Remove a file or folder unless a process holds it; False where one does."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove(path)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return True
    finally:
        os.close(handle)
    return True


def _overwrite(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _name(file: RemoteFile) -> str:
    text = f"{file.address}\n{file.size_bytes}\n{file.mtime_ns}\n{file.tag}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32] + _suffix(file)


def _suffix(file: RemoteFile) -> str:
    """Return the end of a cached file's name: FFmpeg looks at it where the content is unclear."""
    name = file.address.partition("?")[0].rpartition("/")[2]
    suffix = os.path.splitext(name)[1]
    return suffix if suffix.isascii() and len(suffix) <= 16 else ""


def cache_settings(root: Path | None = None, size_gb: float | None = None) -> LocalCache:
    """Return the cache of this machine.

    Args:
        root: its folder; None = ``CV_READER_CACHE``, else ``cv_reader`` in the user's cache folder.
        size_gb: its size in 10^9 bytes; None = ``CV_READER_CACHE_GB``, else 20.

    Raises:
        SettingsError: The size is no positive number.
    """
    folder = root or os.environ.get(ROOT_VARIABLE)
    if folder is None:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cv_reader"
    given = os.environ.get(SIZE_VARIABLE, "") if size_gb is None else size_gb
    try:
        size = DEFAULT_GB if given == "" else float(given)
    except ValueError:
        size = 0.0
    if not 0 < size < float("inf"):
        raise SettingsError(
            f"--cache_gb (or {SIZE_VARIABLE}) must be a positive number, got {given!r}"
        )
    return LocalCache(Path(folder), int(size * _BYTES_PER_GB))


@contextlib.contextmanager
def in_use(folder: Path) -> Generator[bool]:
    """Keep a folder of computed files where it is, for the length of the block.

    Gives whether it is there; it counts as used now.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        is_there = False
        with contextlib.suppress(FileNotFoundError):
            is_there = os.path.samestat(os.stat(folder), os.fstat(handle))
            os.utime(folder)
        yield is_there
    finally:
        os.close(handle)


def keep_within(root: Path, max_bytes: int) -> None:
    """Remove computed folders that were used longest ago until those left have so many bytes.

    Folders that a process holds by ``in_use`` stay. Safe for many processes.

    Args:
        root: holds the folders as ``<fingerprint>/assets/<key>``.
        max_bytes: of the files of all folders.
    """
    with open(root / ".lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        entries: list[tuple[int, int, Path]] = []
        for folder in root.glob("*/assets/*"):
            if folder.name.startswith(_REMOVED):
                shutil.rmtree(folder, ignore_errors=True)
            elif not folder.name.startswith("."):
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    size = sum(entry.stat().st_size for entry in os.scandir(folder))
                    # Not the access time, which listing a folder changes.
                    entries.append((folder.stat().st_mtime_ns, size, folder))
        total = sum(size for _, size, _ in entries)
        for _, size, folder in sorted(entries):
            if total > max_bytes and _remove_unused(folder, _remove_folder):
                total -= size


def _remove_folder(folder: str | Path) -> None:
    # Renamed first: others must never see a folder that lacks some of its files.
    aside = Path(folder).with_name(f"{_REMOVED}{uuid.uuid4().hex}")
    os.rename(folder, aside)
    shutil.rmtree(aside, ignore_errors=True)


_chosen: list[LocalCache] = []


def choose_cache(cache: LocalCache) -> None:
    """Make a cache the one that ``default_cache`` gives in this process."""
    _chosen[:] = [cache]


def default_cache() -> LocalCache:
    """Return the cache that was chosen in this process, else that of the environment.

    Raises:
        SettingsError: As ``cache_settings``.
    """
    return _chosen[0] if _chosen else cache_settings()
