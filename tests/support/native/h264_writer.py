"""Small H.264 streams with what x264 does not write: field pictures, long-term references, switches
between parameter sets.

The first picture holds plain samples (PCM), the others 16 x 16 inter blocks with random vectors and
random single coefficients of 1, so that one table of the variable-length code is enough (table 9-5,
first column). No in-loop filter.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from .bits import Bits, unit

_QP = 38
_FRAME_NUM_BITS = _POC_BITS = 8
_IDR, _SLICE, _SEQUENCE_SET, _PICTURE_SET = 5, 1, 7, 8

_INTER_PATTERNS = {0: 0, 1: 2, 2: 3, 4: 4, 8: 5, 3: 7, 5: 8, 10: 9, 12: 10, 15: 11}
"""Which quarters have luma coefficients (a bit each) -> code number, table 9-4."""

_ZEROS_BEFORE_ONE = ["1", "011", "010", "0011", "0010", "00011", "00010", "000011", "000010"]
"""Codes of 0 to 8 zeros before a single coefficient, table 9-7."""


@dataclass(frozen=True, kw_only=True)
class H264Stream:
    """What a stream is made of.

    Attributes:
        columns, rows: of macroblocks; rows even where there are fields.
        num_pictures: frames; the first is intra.
        fields: frames of which each is coded as two fields.
        long_term: the first frame stays as a long-term reference.
        slice_blocks: macroblocks per slice, 0 = one slice.
        num_picture_sets: pictures choose between them by turns; they differ in the quantiser.
        repeat_sets: whether the parameter sets are repeated before each picture.
        num_references: short-term references that are kept.
        seed: of all choices.
    """

    columns: int = 6
    rows: int = 4
    num_pictures: int = 6
    fields: frozenset[int] = frozenset()
    long_term: bool = False
    slice_blocks: int = 0
    num_picture_sets: int = 1
    repeat_sets: bool = False
    num_references: int = 2
    seed: int = 0


def write(stream: H264Stream) -> bytes:
    """The raw stream."""
    return b"".join(write_pictures(stream))


def parameter_sets(stream: H264Stream) -> bytes:
    """The sequence parameter set, and every picture parameter set."""
    sets = [_picture_set(number) for number in range(stream.num_picture_sets)]
    return b"".join([_sequence_set(stream), *sets])


def write_pictures(stream: H264Stream) -> list[bytes]:
    """One piece of the raw stream per frame, both of its fields together."""
    generator = np.random.default_rng(stream.seed)
    pieces = []
    for number in range(stream.num_pictures):
        sets = parameter_sets(stream) if number == 0 or stream.repeat_sets else b""
        parities = (0, 1) if number in stream.fields else (None,)
        pictures = [_picture(stream, number, parity, generator) for parity in parities]
        pieces.append(sets + b"".join(pictures))
    return pieces


def _sequence_set(stream: H264Stream) -> bytes:
    interlaced = bool(stream.fields)
    references = stream.num_references + stream.long_term
    bits = Bits().u(77, 8).u(0, 8).u(30, 8).ue(0, _FRAME_NUM_BITS - 4, 0, _POC_BITS - 4)
    bits.ue(references).u(0).ue(stream.columns - 1)
    bits.ue(stream.rows // (1 + interlaced) - 1).u(not interlaced)
    if interlaced:
        bits.u(0)
    return unit(bytes([0x60 | _SEQUENCE_SET]), bits.u(1).u(0).u(0).end())


def _picture_set(number: int) -> bytes:
    bits = Bits().ue(number, 0).u(0).u(0).ue(0, 0, 0).u(0).u(0, 2)
    bits.se(_QP - 26 - number, 0, 0).u(1).u(0).u(0)
    return unit(bytes([0x60 | _PICTURE_SET]), bits.end())


def _picture(stream: H264Stream, number: int, parity: int | None, generator: Generator) -> bytes:
    num_blocks = stream.columns * stream.rows // (1 if parity is None else 2)
    every = stream.slice_blocks or num_blocks
    kind = 0x60 | (_SLICE if number else _IDR)
    slices = []
    for first in range(0, num_blocks, every):
        bits = Bits()
        num_indices = _slice_header(stream, bits, number, parity, first)
        for _ in range(min(every, num_blocks - first)):
            if number:
                _inter_block(bits, num_indices, generator)
            else:
                _plain_block(bits, generator)
        slices.append(unit(bytes([kind]), bits.end()))
    return b"".join(slices)


def _slice_header(
    stream: H264Stream, bits: Bits, number: int, parity: int | None, first: int
) -> int:
    """Append the header; returns how many references the slice has."""
    bits.ue(first, 5 if number else 7, number % stream.num_picture_sets)
    bits.u(number, _FRAME_NUM_BITS)
    if stream.fields:
        bits.u(parity is not None)
        if parity is not None:
            bits.u(parity)
    if not number:
        bits.ue(0)
    bits.u(2 * number + (parity or 0), _POC_BITS)
    if not number:
        bits.u(0).u(stream.long_term).se(0).ue(1)
        return 0
    num_indices = _num_references(stream, number, parity)
    bits.u(1).ue(num_indices - 1).u(0).u(0).se(0).ue(1)
    return num_indices


def _num_references(stream: H264Stream, number: int, parity: int | None) -> int:
    """References of a frame, or fields that a field may refer to."""
    frames = number - stream.long_term
    if parity is None:
        return min(frames, stream.num_references) + stream.long_term
    if parity == 0:
        return 2 * (min(frames, stream.num_references) + stream.long_term)
    # The first field has pushed the oldest frame out, and may be referred to itself.
    return 2 * (min(frames, stream.num_references - 1) + stream.long_term) + 1


def _plain_block(bits: Bits, generator: Generator) -> None:
    bits.ue(25).align()
    luma = generator.integers(30, 220, (4, 4)).repeat(4, 0).repeat(4, 1)
    luma = luma + generator.integers(-9, 10, (16, 16))
    chroma = generator.integers(90, 160, 2).repeat(64)
    for value in [*luma.ravel().tolist(), *chroma.tolist()]:
        bits.u(value, 8)


def _inter_block(bits: Bits, num_indices: int, generator: Generator) -> None:
    bits.ue(0)  # none is skipped before it
    bits.ue(0)
    index = int(generator.integers(num_indices))
    if num_indices == 2:
        bits.u(1 - index)
    elif num_indices > 2:
        bits.ue(index)
    bits.se(*generator.integers(-9, 10, 2).tolist())
    patterns = list(_INTER_PATTERNS)
    pattern = patterns[generator.integers(len(patterns))]
    bits.ue(_INTER_PATTERNS[pattern])
    if not pattern:
        return
    bits.se(0)
    for quarter in range(4):
        if pattern >> quarter & 1:
            for _ in range(4):
                _coefficient(bits, generator)


def _coefficient(bits: Bits, generator: Generator) -> None:
    """A 4 x 4 block with nothing, or with a single 1 or -1."""
    if generator.random() < 0.4:
        bits.u(1)
        return
    bits.u(1, 2).u(int(generator.integers(2)))
    bits.text += _ZEROS_BEFORE_ONE[generator.integers(9)]
