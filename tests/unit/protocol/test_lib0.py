import pytest

from constructure_sync.errors import ProtocolViolation
from constructure_sync.protocol.lib0 import Reader, var_bytes, var_string, write_var_int, write_var_uint

NUMBERS = [0, 1, 63, 64, 127, 128, 8191, 8192, 2**31, 2**32, 2**53 - 1]


@pytest.mark.parametrize("number", NUMBERS)
def test_an_unsigned_integer_reads_back(number: int) -> None:
    assert Reader(write_var_uint(number)).read_var_uint() == number


@pytest.mark.parametrize("number", NUMBERS + [-n for n in NUMBERS])
def test_a_signed_integer_reads_back(number: int) -> None:
    assert Reader(write_var_int(number)).read_var_int() == number


@pytest.mark.parametrize(
    "encoded",
    [b"", b"\x80", b"\x80" * 10 + b"\x01", b"\xff" * 9 + b"\x01", b"\x80" * 7 + b"\x10", b"\xff" * 1_000_000],
    ids=["empty", "cut off", "eleven bytes", "2^64-1", "2^53", "a million bytes"],
)
def test_a_hostile_unsigned_integer_is_refused(encoded: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        Reader(encoded).read_var_uint()


@pytest.mark.parametrize("encoded", [b"", b"\x80", b"\xbf" + b"\xff" * 8 + b"\x01", b"\x80" + b"\x80" * 10 + b"\x00"])
def test_a_hostile_signed_integer_is_refused(encoded: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        Reader(encoded).read_var_int()


def test_a_reader_never_passes_its_end() -> None:
    reader = Reader(var_bytes(b"abc") + b"rest", 0, 3)
    with pytest.raises(ProtocolViolation):
        reader.read_var_bytes()


def test_strings_and_bytes_read_back_in_order() -> None:
    reader = Reader(var_string("Größe 😀") + var_bytes(b"\x00\xff") + b"\x07")
    assert reader.read_var_string() == "Größe 😀"
    assert reader.read_var_bytes() == b"\x00\xff"
    assert reader.bytes_left == 1
    assert reader.read_byte() == 7
    assert not reader.has_more
    with pytest.raises(ProtocolViolation):
        reader.read_byte()


def test_bytes_after_the_end_are_refused_where_none_are_expected() -> None:
    with pytest.raises(ProtocolViolation):
        Reader(b"\x00").expect_end()


def test_ill_formed_utf8_is_refused() -> None:
    for encoded in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"):
        with pytest.raises(ProtocolViolation):
            Reader(var_bytes(encoded)).read_var_string()


def test_a_lone_surrogate_is_written_as_javascript_writes_it() -> None:
    assert var_string("a\ud800b") == var_string("a�b")
    assert var_string("\ud83d\ude00") == var_string("😀")
