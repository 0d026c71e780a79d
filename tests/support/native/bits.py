"""Writing H.264 and H.265 streams by hand: bits, Exp-Golomb codes, units, arithmetic coding.

Encoders never use some tools that the standards allow; the writers in this folder do.
"""

_RANGE_LPS = (
    "80b0d0f0 80a7c5e3 809ebbd8 7b96b2cd 748ea9c3 6f87a0b9 698098af 647a90a6 5f74899e 5a6e8296"
    " 55687b8e 51637587 4d5e6f80 4959697a 45556474 42505f6e 3e4c5a68 3b485663 3845515e 35414d59"
    " 333e4955 303b4550 2e38424c 2b353f48 29323b45 27303841 252d363e 232b333b 21293038 20272e35"
    " 1e252b32 1d232930 1b21272d 1a1f252b 181e2329 171c2127 161b2025 151a1e23 14181d21 13171b1f"
    " 12161a1e 1115191c 1014171b 0f131619 0e121518 0e111417 0d101316 0c0f1215 0c0e1114 0b0e1013"
    " 0b0d0f12 0a0c0f11 0a0c0e10 090b0d0f 090b0c0e 080a0c0e 08090b0d 07090b0c 07090a0c 07080a0b"
    " 0608090b 0607090a 06070809 02020202"
)
"""Table 9-52 of H.265: four widths per state."""

_NEXT_LPS = (
    "0 0 1 2 2 4 4 5 6 7 8 9 9 11 11 12 13 13 15 15 16 16 18 18 19 19 21 21 22 22 23 24 24 25 26 26"
    " 27 27 28 29 29 30 30 30 31 32 32 33 33 33 34 34 35 35 35 36 36 36 37 37 37 38 38 63"
)
"""Table 9-53: the state after the less probable symbol."""

_RANGES = [bytes.fromhex(widths) for widths in _RANGE_LPS.split()]
_AFTER_LPS = [int(state) for state in _NEXT_LPS.split()]


class Bits:
    """A string of bits that grows at its end."""

    def __init__(self) -> None:
        self.text = ""

    def u(self, value: int, width: int = 1) -> "Bits":
        """A number of fixed width."""
        assert 0 <= value < 1 << width
        self.text += f"{value:0{width}b}" if width else ""
        return self

    def ue(self, *values: int) -> "Bits":
        """Exp-Golomb codes of numbers from 0 on."""
        for value in values:
            code = f"{value + 1:b}"
            self.text += "0" * (len(code) - 1) + code
        return self

    def se(self, *values: int) -> "Bits":
        """Exp-Golomb codes of signed numbers."""
        return self.ue(*(2 * value - 1 if value > 0 else -2 * value for value in values))

    def align(self) -> "Bits":
        """Zeros up to the next byte."""
        self.text += "0" * (-len(self.text) % 8)
        return self

    def end(self) -> bytes:
        """The bytes, after the stop bit."""
        return self.u(1).align().bytes()

    def bytes(self) -> bytes:
        """The bytes; their number must be whole."""
        assert len(self.text) % 8 == 0
        return int(self.text or "0", 2).to_bytes(len(self.text) // 8, "big")


def unit(header: bytes, payload: bytes) -> bytes:
    """A unit of a raw stream: start code, header, and payload with its zeros made safe."""
    return b"\0\0\0\1" + header + escaped(payload)


def escaped(payload: bytes) -> bytes:
    """The payload with a 3 after two zeros where it could be taken for a start code."""
    out = bytearray()
    zeros = 0
    for value in payload:
        if zeros == 2 and value <= 3:
            out.append(3)
            zeros = 0
        out.append(value)
        zeros = zeros + 1 if value == 0 else 0
    return bytes(out)


class Context:
    """The adaptive probability of one kind of decision (9.3.2.2)."""

    def __init__(self, initial: int, qp: int) -> None:
        slope, offset = (initial >> 4) * 5 - 45, ((initial & 15) << 3) - 16
        state = min(max(1, ((slope * min(max(qp, 0), 51)) >> 4) + offset), 126)
        self.likely = int(state > 63)
        self.state = state - 64 if self.likely else 63 - state


class ArithmeticEncoder:
    """The arithmetic encoder of H.264 and H.265 (9.3.4.2 and following)."""

    def __init__(self) -> None:
        self.bits = Bits()
        self._begin()

    def _begin(self) -> None:
        self._low, self._range, self._is_first, self._outstanding = 0, 510, True, 0

    def decide(self, context: Context, value: int) -> None:
        """Code a decision with its context."""
        narrow = _RANGES[context.state][(self._range >> 6) & 3]
        self._range -= narrow
        if value == context.likely:
            context.state = min(context.state + 1, 62)
        else:
            self._low += self._range
            self._range = narrow
            if context.state == 0:
                context.likely = 1 - context.likely
            context.state = _AFTER_LPS[context.state]
        self._renormalise()

    def bypass(self, value: int, width: int = 1) -> None:
        """Code bits that are as likely as not."""
        for place in reversed(range(width)):
            self._low <<= 1
            if value >> place & 1:
                self._low += self._range
            self._shift_out(1024)

    def terminate(self, value: int) -> None:
        """Code whether something ends here; if so the bits end with a 1 on a whole byte."""
        self._range -= 2
        if not value:
            self._renormalise()
            return
        self._low += self._range
        self._range = 2
        self._renormalise()
        self._put(self._low >> 9 & 1)
        self.bits.u((self._low >> 7 & 3) | 1, 2).align()
        self._begin()

    def _renormalise(self) -> None:
        while self._range < 256:
            self._range <<= 1
            self._low <<= 1
            self._shift_out(1024)

    def _shift_out(self, top: int) -> None:
        """Settle the highest bit of the low end, or put it off."""
        if self._low >= top:
            self._put(1)
            self._low -= top
        elif self._low < top // 2:
            self._put(0)
        else:
            self._outstanding += 1
            self._low -= top // 2

    def _put(self, bit: int) -> None:
        if self._is_first:
            self._is_first = False
        else:
            self.bits.u(bit)
        self.bits.text += str(1 - bit) * self._outstanding
        self._outstanding = 0
