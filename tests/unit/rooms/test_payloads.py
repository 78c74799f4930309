"""Payloads that added nothing are recognised by their digest, within a bound."""

from constructure_sync.rooms.payloads import Payloads


def payload(number: int) -> bytes:
    return number.to_bytes(4, "big") * 32


def test_what_added_nothing_is_recognised() -> None:
    payloads = Payloads()
    payloads.add(payload(1))

    assert payload(1) in payloads
    assert payload(2) not in payloads


def test_short_payloads_are_not_remembered() -> None:
    payloads = Payloads()
    payloads.add(b"\x00\x00")

    assert b"\x00\x00" not in payloads


def test_R13_the_oldest_are_forgotten() -> None:
    payloads = Payloads()
    for number in range(257):
        payloads.add(payload(number))

    assert payload(0) not in payloads
    assert payload(1) in payloads
    assert payload(256) in payloads
