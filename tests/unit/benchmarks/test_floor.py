"""The C floor speaks WebSocket to a real client, and every room ends with what was written in it."""

import random

import pytest
from websockets.sync.client import connect

from benchmarks.check import check
from benchmarks.edits import Author, var_bytes
from benchmarks.floor import floor_world
from benchmarks.generator import Generator
from benchmarks.wire import ASK_EVERYTHING, Absent

_NOTHING = b"\x00\x01\x02\x00\x00"
_WAIT = 20.0


def test_floor_takes_a_real_clients_upgrade_and_relays_its_updates_to_the_others_of_its_room() -> None:
    updates = [b"\x00\x02" + var_bytes(Author(5).edit(number) + bytes(size)) for number, size in enumerate((0, 70_000))]
    try:
        with floor_world(2) as target, connect(target.url(0)) as writer, connect(target.url(0)) as reader:
            for each in (writer, reader):
                each.send(ASK_EVERYTHING)
                assert each.recv(_WAIT) == _NOTHING
            with connect(target.url(1)) as elsewhere:
                for update in updates:
                    writer.send(update)
                    assert reader.recv(_WAIT) == update
                elsewhere.send(ASK_EVERYTHING)
                assert elsewhere.recv(_WAIT) == _NOTHING
            answer = b"\x00\x02" + var_bytes(Author(6).edit(2))
            reader.send(answer)
            assert writer.recv(_WAIT) == answer  # and none of its own
    except Absent as absent:
        pytest.skip(str(absent))


def test_floor_passes_the_check_that_the_servers_pass() -> None:
    try:
        with floor_world(2) as target, Generator(random.Random(1)) as generator:
            clients = [generator.join(target.url(number % 2), number % 2) for number in range(6)]
            for number in range(600):
                generator.edit(clients[number % 6])
            generator.settle()
            check(generator, target.urls())
    except Absent as absent:
        pytest.skip(str(absent))


def test_floor_says_that_there_is_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Absent, match="needs a C compiler"), floor_world(1):
        pass
