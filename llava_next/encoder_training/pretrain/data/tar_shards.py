"""Write and read WebDataset tar shards: members ``KEY.EXTENSION``, those of a sample in a row.

Members of a sample, by extension (what follows the first dot of the file name):

    jpg, png, webp   bytes of the image
    mp4, mkv, ...    bytes of the video, or ``video.txt``: its path, relative to the set's folder
    labels.npy       integers (R,), nearest centre first
    visidx.npy       integers (K,), t * grid^2 + h * grid + w: patches that the codec found salient
    frames.npy       integers (T,), the frame of each slot t that ``visidx.npy`` was made from

``visidx.npy`` is what the reference tools write; their files have no ``frames.npy``, and mean the
floor of evenly spaced frames.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cv_reader.shards import Member
from encoder_training.pretrain.data.samples import BadSampleError
from encoder_training.pretrain.data.set_info import SET_FILE, SetInfo, ShardInfo, write_set
from run_kit.files import replace_file, write_json

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
VIDEO_EXTENSIONS = ("mp4", "mkv", "webm", "avi", "mov")
VIDEO_PATH = "video.txt"
LABELS = "labels.npy"
INDICES = "visidx.npy"
FRAMES = "frames.npy"
MAX_MEMBER_BYTES = 2 << 30


Members = dict[str, Member]
"""Files of one sample, keyed by extension."""


def split_name(name: str) -> tuple[str, str]:
    """Return key and extension of a member: WebDataset cuts the file name at its first dot."""
    folder, slash, base = name.rpartition("/")
    key, _, extension = base.partition(".")
    return folder + slash + key, extension.lower()


def scan_shard(path: Path) -> list[tuple[str, Members]]:
    """Return key and members of each sample of a shard, from its headers alone.

    Raises:
        BadSampleError: naming the shard where it is missing or damaged, or a key comes twice.
    """
    samples: list[tuple[str, Members]] = []
    seen: set[str] = set()
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                key, extension = split_name(member.name)
                if not samples or samples[-1][0] != key:
                    if key in seen:
                        raise BadSampleError(
                            f"{path}, key {key}", "key comes twice", "members must be in a row"
                        )
                    seen.add(key)
                    samples.append((key, {}))
                samples[-1][1][extension] = Member(member.offset_data, member.size)
        size = path.stat().st_size
        key, members = samples[-1] if samples else ("", {})
        if any(member.offset + member.size > size for member in members.values()):
            raise tarfile.ReadError("the file ends inside a member")
    except (OSError, tarfile.TarError) as error:
        place = f"{path}, after key {samples[-1][0]}" if samples else f"{path}"
        raise BadSampleError(place, "broken shard", f"the tar cannot be read: {error}") from error
    return samples


def read_member(path: Path, member: Member, place: str) -> bytes:
    """Return the content of a member.

    Raises:
        BadSampleError: if the shard ends inside it, or cannot be read.
    """
    if member.size > MAX_MEMBER_BYTES:
        raise BadSampleError(
            place,
            "member too large",
            f"must be at most {MAX_MEMBER_BYTES} bytes, got {member.size}",
        )
    try:
        with path.open("rb") as file:
            file.seek(member.offset)
            data = file.read(member.size)
    except OSError as error:
        raise BadSampleError(place, "broken shard", f"cannot be read: {error}") from error
    if len(data) != member.size:
        raise BadSampleError(place, "broken shard", "the file ends inside the sample")
    return data


def load_integers(data: bytes, place: str, rule: str) -> NDArray[np.int64]:
    """Read a one-dimensional integer ``.npy`` without pickle.

    Raises:
        BadSampleError: under ``rule``.
    """
    try:
        file = io.BytesIO(data)
        version = np.lib.format.read_magic(file)
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        if version not in readers:
            raise ValueError(f"version {version} of the format is not supported")
        shape, _, dtype = readers[version](file)
        # The header is not trusted: nothing is allocated for a shape that the data do not have.
        if len(shape) == 1 and dtype.kind in "iu" and 0 <= shape[0] * dtype.itemsize <= len(data):
            return np.frombuffer(data, dtype, shape[0], file.tell()).astype(np.int64)
    except (ValueError, EOFError, OSError) as error:
        raise BadSampleError(place, rule, f"the array cannot be read: {error}") from error
    raise BadSampleError(place, rule, f"must be integers (N,), got {dtype} of shape {shape}")


def npy_bytes(array: NDArray[np.generic]) -> bytes:
    """Return an array as the bytes of a ``.npy`` file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


@dataclass(frozen=True, kw_only=True)
class WriteProgress:
    """How far the source of a set was read when a shard ended.

    Attributes:
        items: samples of the source that were read.
        last_key: key of the last of them.
        skipped: bad ones among them, by rule.
    """

    items: int = 0
    last_key: str = ""
    skipped: dict[str, int] = field(default_factory=dict[str, int])


class SetWriter:
    """Write a shard set; use it as a context manager.

    ``set.json`` is written last, so that a folder with one is complete. A folder that already has
    one is refused. Shards hold no times and no owner: the same samples give the same bytes.

    With ``settings``, each finished shard gets a file that says how far the source was read, and a
    writer of the same settings continues after the last of them; see ``progress``.

    Args:
        folder: where the set is written.
        info: what ``set.json`` says, without shards.
        samples_per_shard, bytes_per_shard: a shard ends when it reaches either.
        settings: what else decides the shards, as JSON; None starts at the first sample.

    Attributes:
        info: what ``set.json`` says; it has shards once the set is closed.
        progress: how far the source was read; the caller updates it before each sample.

    Raises:
        ValueError: if the folder holds a set, or shards of other settings.
    """

    def __init__(
        self,
        folder: Path,
        info: SetInfo,
        *,
        samples_per_shard: int = 10_000,
        bytes_per_shard: int = 1 << 30,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        if (folder / SET_FILE).exists():
            raise ValueError(f"{folder} already holds a shard set; write to another folder")
        if samples_per_shard < 1 or bytes_per_shard < 1:
            raise ValueError("samples_per_shard and bytes_per_shard must be at least 1")
        self._folder, self.info = folder, info
        self._limits = samples_per_shard, bytes_per_shard
        self._shards: list[ShardInfo] = []
        self._keys: set[str] = set()
        self._shard: _OpenShard | None = None
        self.progress = WriteProgress()
        self._settings: dict[str, Any] | None = None
        if settings is not None:
            limits = {"samples_per_shard": samples_per_shard, "bytes_per_shard": bytes_per_shard}
            own = {**asdict(info), **limits, **settings}
            self._settings = json.loads(json.dumps(own, default=str))
            self._resume()

    def _resume(self) -> None:
        """Take over the shards that an earlier run with these settings finished."""
        while (path := self._progress_file(len(self._shards))).is_file():
            try:
                stored = json.loads(path.read_text(encoding="utf-8"))
                shard, progress = ShardInfo(**stored["shard"]), WriteProgress(**stored["progress"])
                before = stored["settings"]
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(f"{path} cannot be read ({error!r}); remove it") from error
            if before != self._settings:
                names = [name for name, value in (self._settings or {}).items()
                         if before.get(name) != value]  # fmt: skip
                raise ValueError(
                    f"{self._folder} holds shards that were written with other settings "
                    f"({', '.join(names) or 'more of them'}); write to another folder, or remove it"
                )
            shard_path = self._folder / shard.name
            if not shard_path.is_file() or shard_path.stat().st_size != shard.num_bytes:
                return
            self._keys.update(key for key, _ in scan_shard(shard_path))
            self._shards.append(shard)
            self.progress = progress

    def _progress_file(self, number: int) -> Path:
        return self._folder / f"shard-{number:06d}.json"

    def _finish_shard(self, shard: "_OpenShard") -> None:
        described = shard.close()
        if self._settings is not None:
            write_json(
                self._progress_file(len(self._shards)),
                {
                    "settings": self._settings,
                    "shard": asdict(described),
                    "progress": asdict(self.progress),
                },
            )
        self._shards.append(described)
        self._shard = None

    def __enter__(self) -> "SetWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        elif self._shard is not None:
            self._shard.abandon(kind, error, trace)

    def add(self, key: str, members: Mapping[str, bytes]) -> None:
        """Add a sample.

        Args:
            key: name without dots; unique in the set.
            members: content by extension.

        Raises:
            ValueError: if the key is no name of a member, or comes twice.
        """
        if not key or split_name(f"{key}.x") != (key, "x") or key.startswith(("/", "../")):
            raise ValueError(f"a key must be a relative name without dots, got {key!r}")
        if key in self._keys:
            raise ValueError(f"keys of a set must differ, got {key!r} twice")
        self._keys.add(key)
        if self._shard is None:
            self._shard = _OpenShard(self._folder / f"shard-{len(self._shards):06d}.tar")
        self._shard.add(key, members)
        most_samples, most_bytes = self._limits
        if self._shard.num_samples >= most_samples or self._shard.num_bytes >= most_bytes:
            self._finish_shard(self._shard)

    def close(self) -> None:
        """Write what is left, then ``set.json``."""
        if self._shard is not None:
            self._finish_shard(self._shard)
        if not self._shards:
            raise ValueError(f"{self._folder}: a set must hold at least one sample")
        self.info = replace(self.info, shards=tuple(self._shards))
        write_set(self._folder, self.info)
        if self._settings is not None:
            for number in range(len(self._shards)):
                self._progress_file(number).unlink(missing_ok=True)


class _OpenShard:
    """A tar file that gets its name when it is closed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack = ExitStack()
        temporary = self._stack.enter_context(replace_file(path))
        self._tar = tarfile.TarFile(temporary, "w")
        self._stack.callback(self._tar.close)
        self.num_samples = 0
        self.num_bytes = 0

    def add(self, key: str, members: Mapping[str, bytes]) -> None:
        for extension, content in members.items():
            header = tarfile.TarInfo(f"{key}.{extension}")
            header.size = len(content)
            self._tar.addfile(header, io.BytesIO(content))
            self.num_bytes += 1024 + len(content)
        self.num_samples += 1

    def close(self) -> ShardInfo:
        self._stack.close()
        return describe_shard(self._path, self.num_samples)

    def abandon(
        self,
        kind: type[BaseException],
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)


def describe_shard(path: Path, num_samples: int) -> ShardInfo:
    """Return size and hash of a shard."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return ShardInfo(
        name=path.name,
        num_samples=num_samples,
        num_bytes=path.stat().st_size,
        sha256=digest.hexdigest(),
    )
