"""What decoders take and give: packets in, coded pictures out."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from av.bitstream import BitStreamFilterContext
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from cv_reader.media.headers import NO_PICTURE, header_reader


class CodedPicture(Protocol):
    """What the reader needs of a decoder's pictures; PyAV's frames have it."""

    @property
    def pts(self) -> int | None:
        """Time stamp of the packet it was decoded from."""
        ...

    @property
    def width(self) -> int:
        """Columns, cropped, before rotation."""
        ...

    @property
    def height(self) -> int:
        """Columns, cropped, before rotation."""
        ...

    @property
    def rotation(self) -> int:
        """Counter-clockwise turn to the shown picture in degrees, as FFmpeg reports it."""
        ...

    @property
    def is_corrupt(self) -> bool:
        """Whether it is damaged."""
        ...


PictureT = TypeVar("PictureT", bound=CodedPicture)


PacketDecoder = Callable[[Packet | None], list[PictureT]]
"""A decoder: a packet in, and the pictures that are ready out, in presentation order; None asks for
all that are held back, after which it takes packets as from the start. A damaged packet yields no
picture; the error at the end of the read names the frame."""


@dataclass(frozen=True, eq=False)
class DecodedPicture(Generic[PictureT]):
    """One picture out of the decoder.

    Attributes:
        frame: the decoder's picture, coded orientation.
        number: frame number, -1 for a picture that is decoded but never shown.
        packet: row of the packet table.
        is_wanted: whether the caller asked for this frame; others serve as references.
        starts_run: no picture before this one may be used as its reference.
    """

    frame: PictureT
    number: int
    packet: int
    is_wanted: bool
    starts_run: bool


Decoded = DecodedPicture[VideoFrame]
"""A picture from PyAV's decoder."""


def numbered(packet: Packet, row: int) -> Packet:
    """Return the packet with its row for a time stamp; discarded ones are made to come out too."""
    if packet.is_discard:
        # Decoders suppress pictures that an edit list discards, but others refer to them.
        packet = Packet(bytes(packet))
    packet.pts = row
    return packet


def unpacked(packets: Iterable[Packet], stream: VideoStream) -> Iterator[Packet]:
    """Yield one packet per picture where MPEG-4 packs several into one, as Xvid and DivX do.

    A packed packet holds a picture and the B picture that is shown before it; a later packet, which
    says only that nothing is new, takes the place of that B picture. FFmpeg's filter puts it there,
    but takes B pictures of a few bytes for such place holders; these are put there here.

    Args:
        packets: packets in file order, beginning with a key packet.
        stream: stream of the packets.
    """
    unpack = BitStreamFilterContext("mpeg4_unpack_bframes", stream)
    read = header_reader("mpeg4", None)
    is_open, kept = False, b""
    for packet in packets:
        data = bytes(packet)
        facts = read(memoryview(data))
        is_small = facts.unit_type == NO_PICTURE
        if kept and not facts.is_packed:
            place = Packet(kept)
            place.pts, place.dts = packet.pts, packet.dts
            kept = data if facts.is_b else b""
            yield place
            if facts.is_b or is_small:
                continue
        if is_open and is_small and facts.is_b:
            kept = data
        is_open = facts.is_packed or (is_open and not is_small)
        yield from (picture for picture in unpack.filter(packet) if picture.size)
