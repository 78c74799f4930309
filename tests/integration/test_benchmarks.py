"""The load generator against a real server: a deployment's URL, a replayed trace and cursors, each with its check at the end."""

import json
import random
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from websockets.sync.server import ServerConnection, serve

from benchmarks import scripts
from benchmarks.edits import mark
from benchmarks.floor import floor_world
from benchmarks.generator import Generator
from benchmarks.presence import Crowd
from benchmarks.replay import Replay
from benchmarks.servers import Loadable, Target, open_courses, unpin
from benchmarks.wire import ASK_EVERYTHING, NOTHING_TO_OFFER, Absent
from tests.cluster import SETTINGS
from tests.server_process import HOST, REPOSITORY, ServerProcess

_SECONDS = 60.0
_COURSE = {
    "nodes": [
        {"id": f"node{n}", "kind": "lesson", "parent": None, "order": n, "minutes": 5}
        | {"title": "Größe", "description": "Wörter 😀"}
        for n in range(12)
    ],
    "edges": [{"type": "pre", "from": "node0", "to": f"node{n}"} for n in range(1, 12)],
}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A server with a course for each test."""
    with ServerProcess(tmp_path_factory.mktemp("benchmarks"), SETTINGS) as server:
        yield Target([server], open_courses(server, 3))


def _load(url: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "benchmarks", url, "--clients", "3", "--rate", "40", "--seconds", "0.5"]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=_SECONDS, check=False)


def test_a_deployment_is_loaded_by_its_url_again_and_again(target: Target) -> None:
    for _ in range(2):  # the second time the course holds what the first one wrote
        done = _load(target.url(0))
        assert done.returncode == 0, done.stderr
        assert "all clients and a fresh one hold the same" in done.stdout
        assert "delivery p99 ms" in done.stdout
        assert "every edit has arrived" in done.stderr


def test_a_deployment_that_refuses_is_told_without_its_token(target: Target) -> None:
    done = _load(target.url(0).replace("token=", "token=x"))
    assert done.returncode == 1
    assert "failed: the server refused the socket: HTTP/1.1 401" in done.stderr
    assert target.courses[0].token not in done.stdout + done.stderr


def test_a_hocuspocus_server_that_denies_the_document_is_told() -> None:
    def deny(connection: ServerConnection) -> None:
        assert connection.recv(_SECONDS) == b"\x03doc\x02\x00\x03wrg\x054.7.0"
        connection.send(b"\x03doc\x02\x01\x06denied")
        for _ in connection:
            pass

    with serve(deny, HOST, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            done = _load(f"hocuspocus+ws://{HOST}:{server.socket.getsockname()[1]}/?token=wrg#doc")
        finally:
            server.shutdown()
            thread.join(_SECONDS)
    assert done.returncode == 1
    assert "failed: the server denies the document" in done.stderr


def test_echoes_do_not_stand_for_the_edits_of_others() -> None:
    lines: list[ServerConnection] = []

    def echo_at_once_and_relay_late(line: ServerConnection) -> None:
        lines.append(line)
        for message in line:
            if message == ASK_EVERYTHING:
                line.send(NOTHING_TO_OFFER)
            elif message != NOTHING_TO_OFFER:
                line.send(message)
                for other in lines:
                    if other is not line:
                        threading.Timer(0.3, other.send, [message]).start()

    with serve(echo_at_once_and_relay_late, HOST, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with Generator(random.Random(1)) as generator:
                url = f"ws://{HOST}:{server.socket.getsockname()[1]}/room"
                clients = [generator.join(url, 0) for _ in range(2)]
                for client in clients:
                    generator.edit(client)
                generator.settle()
                assert all(mark(1 - nth) in b"".join(client.received) for nth, client in enumerate(clients))
        finally:
            server.shutdown()
            thread.join(_SECONDS)


def test_what_is_no_sync_server_is_told(target: Target) -> None:
    done = _load(f"ws://{HOST}:{target.server.port}/health")
    assert done.returncode == 1
    assert "failed: the server refused the socket" in done.stderr
    assert "Traceback" not in done.stderr


def _typed(count: int) -> dict[str, object]:
    """Return a trace of two who type at once: B before a bar, A behind it and, whenever they merge, in front of all that B has."""
    txns: list[dict[str, object]] = [{"parents": [], "agent": 0, "patches": [[0, 0, "|"]]}]
    last, front, b_has_of_front, a_has_of_b, typed = [0, 0], 0, 0, 0, [0, 0]
    for nth in range(1, count):
        agent, merges = nth % 2, nth % 10 < 2
        if agent == 0 and merges:
            a_has_of_b, patch = typed[1], [0, 0, "c"]
            front += 1
        elif agent == 0:
            patch = [front + a_has_of_b + 1 + typed[0], 0, "a"]
            typed[0] += 1
        else:
            b_has_of_front = front if merges else b_has_of_front
            patch = [b_has_of_front + typed[1], 0, "b"]
            typed[1] += 1
        txns.append({"parents": sorted(set(last)) if merges else [last[agent]], "agent": agent, "patches": [patch]})
        last[agent] = nth
    txns.append({"parents": [last[1]], "agent": 1, "patches": [[b_has_of_front, 1, ""]]})
    end = "c" * front + "b" * (typed[1] - 1) + "|" + "a" * typed[0]
    return {"kind": "concurrent", "numAgents": 2, "txns": txns, "endContent": end}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A trace and a course where the real ones would be."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "trace-typed.json").write_text(json.dumps(_typed(400)))
    (folder / "course-tiny.json").write_text(json.dumps(_COURSE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scripts, "DATA", folder)
        yield


def _replayed(target: Loadable, room: int, name: str, rate: float = 0.0) -> None:
    script = scripts.script_of(name, 3, 10, 10_000)
    with Replay(target, [room], script, 2) as replay:
        if rate:
            replay.at_rate(rate)
        else:
            replay.with_window(400)  # so that only what an edit builds on holds it back
        replay.settle()
        replay.check()
        assert replay.sent == len(script.steps)
        assert len(replay.rooms[0].arrived) > len(script.steps) * 0.9


@pytest.mark.usefixtures("data")
def test_a_trace_and_a_course_are_replayed_by_their_writers(target: Target) -> None:
    try:
        _replayed(target, 1, "trace-typed")
    except Absent as absent:
        pytest.skip(str(absent))
    _replayed(target, 2, "course-tiny", rate=400)


@pytest.mark.usefixtures("data")
def test_the_floor_takes_a_trace_too() -> None:
    try:
        with floor_world(1) as floor:
            _replayed(floor, 0, "trace-typed")
    except Absent as absent:
        pytest.skip(str(absent))
    finally:
        unpin()


def test_everybody_shows_where_everybody_went_last(target: Target) -> None:
    with Crowd(target.url(0), 4) as crowd:
        moves = crowd.move_for(0.5, 20)
        crowd.settle()
        crowd.join(target.url(0), 999)
        crowd.settle()
        assert len(crowd.delays) >= moves * 3
        assert crowd.sent_back > 0
