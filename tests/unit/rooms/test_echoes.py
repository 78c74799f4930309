"""Echoes: told by their bytes, counted, and forgotten in time (interleavings 6)."""

from prometheus_client import REGISTRY

from constructure_sync.rooms.echoes import Echoes


def counted() -> float:
    return REGISTRY.get_sample_value("presence_frames_total", {"outcome": "echo"}) or 0.0


def test_only_what_is_expected_is_an_echo() -> None:
    echoes = Echoes()
    echoes.expect(b"one")
    assert [echoes.hear(message) for message in (b"one", b"on", b"two", b"one")] == [True, False, False, True]


def test_echoes_are_counted_when_they_are_reported() -> None:
    echoes, before = Echoes(), counted()
    echoes.expect(b"one")
    for message in (b"one", b"one", b"two"):
        echoes.hear(message)
    echoes.report()
    echoes.report()
    assert counted() - before == 2


def test_R13_the_newest_are_remembered_and_all_of_them_take_a_limited_space() -> None:
    echoes = Echoes()
    messages = [number.to_bytes(4, "big") * 250 for number in range(5000)]
    for message in messages:
        echoes.expect(message)
    remembered = [echoes.hear(message) for message in messages]
    assert all(remembered[-400:])
    assert sum(remembered) < 1100


def test_what_is_relayed_again_takes_no_more_space() -> None:
    echoes = Echoes()
    echoes.expect(b"first")
    for _ in range(100_000):
        echoes.expect(b"one")
    assert echoes.hear(b"first")


def test_R13_a_room_that_fell_silent_remembers_nothing() -> None:
    echoes = Echoes()
    echoes.forget_old(100.0)
    echoes.expect(b"one")
    for now, is_remembered in ((130.0, True), (160.0, True), (219.0, True), (220.0, False)):
        echoes.forget_old(now)
        assert echoes.hear(b"one") is is_remembered
