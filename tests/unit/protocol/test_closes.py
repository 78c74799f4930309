"""The table of close codes is consistent, and says permanent exactly where y-websocket gives up."""

from constructure_sync.protocol import closes
from constructure_sync.protocol.closes import BY_CODE, CLOSE_CODES


def test_codes_and_names_are_unique() -> None:
    assert len(BY_CODE) == len(CLOSE_CODES) == len({entry.name for entry in CLOSE_CODES})


def test_permanent_codes_are_those_after_which_y_websocket_stops() -> None:
    for entry in CLOSE_CODES:
        assert entry.permanent == (4400 <= entry.code < 4500), entry


def test_every_code_may_be_sent() -> None:
    for entry in CLOSE_CODES:
        assert 1000 <= entry.code <= 1014 or 3000 <= entry.code <= 4999
        assert entry.code not in (1004, 1005, 1006)


def test_every_constant_is_in_the_table() -> None:
    constants = {value for name, value in vars(closes).items() if name.isupper() and isinstance(value, int)}
    assert constants == set(BY_CODE)


def test_names_fit_into_a_close_frame() -> None:
    assert all(len(entry.name.encode()) <= 123 for entry in CLOSE_CODES)
