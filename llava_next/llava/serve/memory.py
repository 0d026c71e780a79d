"""What is kept between questions: read visuals, and the keys and values of a conversation.

A ``PrefixMemory`` belongs to one conversation and is never looked at for another. ``VisualStore``
may be shared: what it returns depends on the file and the settings alone.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from PIL import Image
from transformers import DynamicCache

from cv_reader.assets import META
from llava.messages import VisualPart
from llava.visual.batch import VisualSegment


class ShownVisual(NamedTuple):
    """A visual of a conversation.

    Attributes:
        key: equal for equal content and settings, and for nothing else.
        segment: what the model takes.
    """

    key: Hashable
    segment: VisualSegment

    @property
    def tokens(self) -> int:
        """Language tokens of the visual."""
        return sum(self.segment.placeholder_tokens)


class PrefixMemory:
    """The tokens of a conversation that the model has read, with their keys and values.

    Attributes:
        cache: the keys and values.
        reused_tokens: tokens that were not read again, over all answers.
    """

    def __init__(self) -> None:
        self.cache: Any = None
        self.reused_tokens = 0
        self._ids: list[int] = []
        self._keys: list[Hashable] = []

    def begin(
        self, ids: Sequence[int], shown: Sequence[ShownVisual], image_token_id: int, config: Any
    ) -> int:
        """Cut the memory to what a new prompt begins with; return the tokens that it need not read.

        At least one token is read again, because the next one follows from it. A visual is kept
        whole or not at all.

        Args:
            ids: the prompt.
            shown: its visuals, in order.
            image_token_id: placeholder of one visual token in ``ids``.
            config: the model's configuration, for a new cache.
        """
        kept, known = 0, iter(self._keys)
        limit = min(len(self._ids), len(ids) - 1)
        rest = list(shown)
        while kept < limit and self._ids[kept] == ids[kept]:
            if ids[kept] != image_token_id or not rest:
                kept += 1
                continue
            length = self._visual_length(ids, kept, rest[0].tokens, image_token_id)
            is_known = next(known, None) == rest.pop(0).key
            if not is_known or kept + length > limit:
                break
            kept += length
        if self.cache is None or not kept:
            self.forget()
            self.cache = DynamicCache(config=config)
        elif kept < self.cache.get_seq_length():
            self.cache.crop(kept - self.cache.get_seq_length())  # negative: tokens to remove
        self.reused_tokens += kept
        return kept

    @staticmethod
    def _visual_length(
        ids: Sequence[int], start: int, visual_tokens: int, image_token_id: int
    ) -> int:
        """Return the tokens from a visual's first to its last, line breaks between included."""
        place = start
        while visual_tokens and place < len(ids):
            visual_tokens -= ids[place] == image_token_id
            place += 1
        return place - start

    def keep(self, ids: Sequence[int], shown: Sequence[ShownVisual]) -> None:
        """Remember what the cache now holds: as many of the tokens as it has keys of."""
        length = self.cache.get_seq_length()
        self._ids = list(ids[:length])
        self._keys = [item.key for item in shown]

    @property
    def is_empty(self) -> bool:
        """Whether nothing is kept."""
        return self.cache is None or not self._ids

    def take_row(self, cache: Any, row: int, start: int, length: int) -> bool:
        """Take over the keys and values of one row of a batch, before ``keep``.

        Args:
            cache: of the batch, whose rows are padded on the left.
            row: number of the row.
            start: places of padding before it.
            length: tokens of it that were read.

        Returns:
            Whether they are all there; layers of windowed attention keep the last ones only.
        """
        self.forget()
        if any(layer.keys.shape[2] < start + length for layer in cache.layers):
            return False
        self.cache = DynamicCache()
        for number, layer in enumerate(cache.layers):
            keys, values = (
                part[row : row + 1, :, start : start + length].clone()
                for part in (layer.keys, layer.values)
            )
            self.cache.update(keys, values, number)
        return True

    def forget(self) -> None:
        """Drop everything."""
        self.cache, self._ids, self._keys = None, [], []


class VisualStore:
    """Visuals by their keys, the ones used last, up to a limit of memory.

    Attributes:
        reads: how often a visual was read because it was not here.
    """

    def __init__(self, max_bytes: int = 2 << 30) -> None:
        self._max_bytes = max_bytes
        self._items: OrderedDict[Hashable, VisualSegment] = OrderedDict()
        self._lock = threading.Lock()
        self.reads = 0

    def get(self, key: Hashable, read: Callable[[], VisualSegment]) -> ShownVisual:
        """Return a visual, read by ``read`` if it is not here."""
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
                return ShownVisual(key, self._items[key])
        segment = read()
        with self._lock:
            self.reads += 1
            self._items[key] = segment
            while len(self._items) > 1 and self.size_bytes > self._max_bytes:
                self._items.popitem(last=False)
        return ShownVisual(key, segment)

    @property
    def size_bytes(self) -> int:
        """Memory of the patches."""
        return sum(
            item.patches.numel() * item.patches.element_size() for item in self._items.values()
        )


def visual_key(part: VisualPart, defaults: Mapping[str, Any]) -> Any:
    """Return what tells a visual from others: its content or its file, and how it is shown."""
    settings = {**defaults, **part.settings} if part.kind == "video" else {}
    source = part.source
    if isinstance(source, Image.Image):
        identity: Any = source.size, source.mode, sha256(source.tobytes()).hexdigest()
    elif isinstance(source, bytes):
        identity = sha256(source).hexdigest()
    elif isinstance(source, str) and source.startswith("data:"):
        identity = sha256(source.encode()).hexdigest()
    elif isinstance(source, str | Path) and Path(source).exists():
        path = Path(source)
        status = (path / META if (path / META).exists() else path).stat()
        identity = str(path.resolve()), status.st_size, status.st_mtime_ns
    else:
        identity = uuid4()  # never equal to another
    return (
        part.kind,
        identity,
        tuple(sorted((name, str(value)) for name, value in settings.items())),
    )
