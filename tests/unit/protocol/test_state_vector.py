import pytest

from constructure_sync.errors import ProtocolViolation
from constructure_sync.protocol.state_vector import decode_state_vector, encode_state_vector
from tests.unit.protocol.updates import uints


def test_a_state_vector_reads_back() -> None:
    clocks = {1: 5, 2**53 - 1: 0, 77: 2**32 - 1}
    assert decode_state_vector(encode_state_vector(clocks)) == clocks
    assert decode_state_vector(b"\x00") == {}


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        uints(2**27),
        uints(2**28),
        uints(2**32),
        uints(1, 5),
        uints(1, 5, 1, 0),
        uints(2, 5, 1, 5, 2),
        uints(1, 5, 2**32),
        b"\x01" + b"\xff" * 9 + b"\x01\x01",
        b"\xff" * 400_000,
    ],
    ids=[
        "empty",
        "2^27 clients",
        "2^28 clients",
        "2^32 clients",
        "cut off",
        "trailing byte",
        "client twice",
        "clock beyond 32 bits",
        "client 2^64-1",
        "endless integer",
    ],
)
def test_a_hostile_state_vector_is_refused(encoded: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        decode_state_vector(encoded)


def test_too_many_clients_are_too_large() -> None:
    with pytest.raises(ProtocolViolation) as refusal:
        decode_state_vector(encode_state_vector(dict.fromkeys(range(4), 1)), max_clients=3)
    assert refusal.value.code == 4413
