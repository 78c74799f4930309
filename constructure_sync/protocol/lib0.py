"""lib0's variable-length encoding: bounded reading of hostile bytes, and writing.

Source of the format: lib0 `encoding.js` and `decoding.js`. A varUint is LEB128 (7 bits per byte, low bits first); a
varInt keeps its sign in bit 7 of the first byte; byte strings and UTF-8 strings carry a varUint length in front.
"""

from constructure_sync.errors import ProtocolViolation

MAX_SAFE_INTEGER = 2**53 - 1
"""The largest integer that every client can hold (JavaScript numbers)."""

MAX_VAR_BYTES = 10
"""The most bytes a variable-length integer may take; lib0 itself never writes more than eight."""


def read_var_uint(data: bytes, position: int) -> tuple[int, int]:
    """Give the varUint that starts at `position` and the position after it.

    Raises ProtocolViolation when the bytes end too early, the number takes more than ten bytes or is above 2^53-1.
    """
    end = len(data)
    if position < end and data[position] < 0x80:  # most numbers are one byte
        return data[position], position + 1
    end = min(end, position + MAX_VAR_BYTES)
    value = shift = 0
    while position < end:
        byte = data[position]
        position += 1
        if byte < 0x80:
            value |= byte << shift
            if value > MAX_SAFE_INTEGER:
                raise ProtocolViolation("integer above 2^53-1")
            return value, position
        value |= (byte & 0x7F) << shift
        shift += 7
    raise ProtocolViolation("integer is cut off or too long")


class Reader:
    """A bounded cursor over bytes: every read gives a value or raises ProtocolViolation, and never passes `end`.

    data: the bytes; position: where to start; end: where to stop (absent: at the end of the data).
    """

    __slots__ = ("_data", "_end", "position")

    def __init__(self, data: bytes, position: int = 0, end: int | None = None) -> None:
        self._data = data if end is None or end >= len(data) else data[:end]
        self._end = len(self._data)
        self.position = position
        if not 0 <= position <= self._end:
            raise ProtocolViolation("message ends too early")

    @property
    def has_more(self) -> bool:
        """Whether bytes are left."""
        return self.position < self._end

    @property
    def bytes_left(self) -> int:
        """How many bytes are left."""
        return self._end - self.position

    def read_byte(self) -> int:
        """Give the next byte."""
        if self.position >= self._end:
            raise ProtocolViolation("message ends too early")
        byte = self._data[self.position]
        self.position += 1
        return byte

    def read_bytes(self, length: int) -> bytes:
        """Give the next `length` bytes."""
        stop = self.position + length
        if length < 0 or stop > self._end:
            raise ProtocolViolation("length is beyond the end of the message")
        taken = self._data[self.position : stop]
        self.position = stop
        return taken

    def read_var_uint(self) -> int:
        """Give an unsigned integer of at most 2^53-1."""
        value, self.position = read_var_uint(self._data, self.position)
        return value

    def read_var_int(self) -> int:
        """Give a signed integer whose magnitude is at most 2^53-1."""
        first = self.read_byte()
        value = first & 0x3F
        if first & 0x80:
            rest, stop = read_var_uint(self._data, self.position)
            if stop - self.position >= MAX_VAR_BYTES:
                raise ProtocolViolation("integer is cut off or too long")
            self.position = stop
            value |= rest << 6
            if value > MAX_SAFE_INTEGER:
                raise ProtocolViolation("integer above 2^53-1")
        return -value if first & 0x40 else value

    def read_var_bytes(self) -> bytes:
        """Give a byte string that carries its length in front."""
        return self.read_bytes(self.read_var_uint())

    def read_var_string(self) -> str:
        """Give a string that carries its length in UTF-8 bytes in front; ill-formed UTF-8 is a violation."""
        try:
            return self.read_var_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise ProtocolViolation("string is not UTF-8") from error

    def expect_end(self) -> None:
        """Raise ProtocolViolation unless everything was read."""
        if self.position < self._end:
            raise ProtocolViolation("bytes after the end of the message")


_SMALL = tuple(bytes((n,)) for n in range(0x80))


def write_var_uint(number: int) -> bytes:
    """Give the varUint of a number that is not negative."""
    if number < 0x80:
        return _SMALL[number]
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    written = bytearray()
    while number >= 0x80:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def write_var_int(number: int) -> bytes:
    """Give the varInt of a number."""
    sign = 0x40 if number < 0 else 0
    number = abs(number)
    first = number & 0x3F | sign
    number >>= 6
    return bytes((first,)) if not number else bytes((first | 0x80,)) + write_var_uint(number)


def var_bytes(content: bytes) -> bytes:
    """Give the bytes with their length in front."""
    return write_var_uint(len(content)) + content


def var_string(text: str) -> bytes:
    """Give the text in UTF-8 with its length in front; a lone surrogate becomes U+FFFD, as JavaScript writes it."""
    try:
        return var_bytes(text.encode())
    except UnicodeEncodeError:
        return var_bytes(text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode())
