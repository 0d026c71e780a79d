"""Types of the extension. Axis legend: w, h blocks of 16 x 16 luma samples."""

from typing import Literal, final

from typing_extensions import Buffer

BUILD_ID: str
"""Names the sources that the installed build was made from."""

FFMPEG_VERSION: str

DAMAGED: int
"""Bit of ``Picture.flags``: a slice is broken or does not end where its data does."""

INTERLACED: int
"""Bit of ``Picture.flags``: field coded; no motion, bits or quantiser."""

MISSING_REF: int
"""Bit of ``Picture.flags``: refers to a picture that the decoder never got."""

FAR_REF: int
"""Bit of ``Picture.flags``: a reference is more than 32767 pictures away."""

MapName = Literal["residual", "motion", "distance", "bits", "qp", "state"]

def list_codecs() -> list[str]:
    """FFmpeg's names of the decoders in this build."""

@final
class Memory:
    """Read-only bytes of a decoded picture, valid for as long as they are held."""

    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class Picture:
    """A decoded picture, before cropping and rotation."""

    @property
    def picture_id(self) -> int:
        """Number that was sent with the packet of the picture."""
    @property
    def pict_type(self) -> int:
        """FFmpeg's number: 1 I, 2 P, 3 B, ..."""
    @property
    def is_key(self) -> bool: ...
    @property
    def is_corrupt(self) -> bool:
        """It is damaged, incomplete, or predicted from a picture that is, or that is lost."""
    @property
    def is_turned(self) -> bool:
        """Its data asks for a rotation when it is shown."""
    @property
    def format(self) -> str:
        """FFmpeg's name of the pixel format."""
    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
    @property
    def crop(self) -> tuple[int, int, int, int]:
        """Pixels to cut off: left, top, right, bottom."""
    @property
    def color(self) -> tuple[int, int]:
        """Matrix and range, FFmpeg's numbers."""
    @property
    def flags(self) -> int:
        """``INTERLACED``, ``MISSING_REF``, ``FAR_REF``."""
    @property
    def bit_depth(self) -> int:
        """Bits of a luma sample."""
    @property
    def blocks(self) -> tuple[int, int] | None:
        """(w, h) of the maps, which cover the picture and more; None without maps."""
    @property
    def layout(self) -> tuple[int, int, int, int, int, int, str, int, int, int]:
        """``size``, ``crop``, ``format``, ``bit_depth`` and ``blocks`` (zeros without maps)."""
    @property
    def num_missing(self) -> int:
        """Blocks that the decoder never came to."""
    def plane(self, number: int, /) -> tuple[Memory, int]:
        """Return the rows of a plane, and the bytes from one row to the next."""
    def map(self, name: MapName, /) -> Memory | None:
        """Return a map, or None where the decoder gives none.

        residual int16 (16 h, 16 w); motion int16 (2, 4 h, 4 w, 2); distance int16 (2, 4 h, 4 w), in
        units of picture ids; bits float32 (h, w); qp uint8 (h, w); state uint8 (h, w).
        """

@final
class Decoder:
    """FFmpeg's decoder for one stream; decoding releases the interpreter."""

    def __new__(
        cls,
        codec_name: str,
        extradata: Buffer,
        *,
        num_threads: int = 1,
        max_pixels: int = ...,
        signals: bool = True,
        num_reordered: int = 0,
        skip_loop_filter: bool = False,
    ) -> Decoder:
        """Open a decoder.

        Args:
            codec_name: one of ``list_codecs()``.
            extradata: parameter sets as the container keeps them, or empty.
            num_threads: pictures that are decoded at the same time.
            max_pixels: larger pictures are refused before anything is allocated for them.
            signals: also give maps; without them decoding is cheapest.
            num_reordered: the most pictures that come before one that is shown before them, where
                the stream may not say it: H.264 pictures that come too late are lost.
            skip_loop_filter: leave out the in-loop filters (for tests; pictures then differ).

        Raises:
            LookupError: no such decoder in this build.
            ValueError: it does not take the stream.
            MemoryError: out of memory.
        """
    @property
    def num_errors(self) -> int:
        """Errors that the decoder has reported so far; it continues after them."""
    def decode(self, data: Buffer, picture_id: int, maps: bool = True, /) -> list[Picture]:
        """Send one packet, and get the pictures that are ready, in presentation order.

        Without ``maps`` the picture gets none, but is judged sound or corrupt all the same.
        """
    def finish(self) -> list[Picture]:
        """Get the pictures that are held back; then the decoder takes packets as from the start."""
