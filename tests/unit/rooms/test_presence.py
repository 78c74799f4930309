"""Presence: who owns an entry, what is relayed, what echoes, what goes with a socket or an instance (R8, interleavings 6 and 7)."""

import json
from uuid import UUID

import pytest

from constructure_sync.bus.contracts import InstanceId, PresenceEntry
from constructure_sync.errors import ProtocolViolation
from constructure_sync.protocol.awareness import GONE, AwarenessEntry, decode_awareness, encode_awareness
from constructure_sync.protocol.closes import RATE, TOO_LARGE
from constructure_sync.protocol.messages import awareness_message
from constructure_sync.rooms.limits import RoomLimits
from constructure_sync.rooms.presence import ROLL_CALL_SECONDS, Attendee, Presence
from schemas.ids import UserId

LIMITS = RoomLimits(awareness_per_second=10, awareness_ids=3, awareness_entry_bytes=100)


def payload(client: int, clock: int, state: bytes = b"{}") -> bytes:
    return encode_awareness([AwarenessEntry(client, clock, state)])


def told(payloads: list[bytes]) -> dict[int, tuple[int, bool]]:
    """Return (clock, whether present) by client id."""
    entries = [entry for each in payloads for entry in decode_awareness(each)]
    return {entry.client_id: (entry.clock, entry.state != GONE) for entry in entries}


HERE, THERE, YONDER = 11, 12, 13


def announced(entries: list[PresenceEntry]) -> list[tuple[int, int, int, bool]]:
    return [(e.connection, e.entry.client_id, e.entry.clock, e.entry.state != GONE) for e in entries]


class Bench:
    """The presence of a room on the instance HERE, and its clock."""

    def __init__(self) -> None:
        self.presence = Presence(LIMITS, HERE)
        self.now = 1000.0

    def hear(
        self, instance: InstanceId, client: int, clock: int, state: bytes = b"{}", connection: int = 1, user: int = 1
    ) -> None:
        """Another instance announces what one of its connections has said."""
        entry = AwarenessEntry(client, clock, state)
        self.presence.take_elsewhere(instance, [PresenceEntry(connection, UserId(UUID(int=user)), entry)], self.now)

    def announced(self) -> list[tuple[int, int, int, bool]]:
        """Return what is to be published: connection, client, clock, whether present."""
        return announced(self.presence.take_announcements())

    def attend(self, user: int = 1) -> Attendee:
        return self.presence.attend(UserId(UUID(int=user)), f"user {user}", self.now)

    def say(self, attendee: Attendee, client: int, clock: int, state: bytes = b"{}") -> bytes | None:
        return self.presence.receive(attendee, payload(client, clock, state), self.now)

    def is_echo(self, attendee: Attendee, payload: bytes) -> bool:
        return self.presence.is_echo(attendee, awareness_message(payload))

    def changes(self) -> dict[int, tuple[int, bool]]:
        return told(self.presence.take_changes())

    def has_deferred(self) -> bool:
        return self.presence.has_deferred

    def roll_call_waits(self) -> bool:
        return self.presence.roll_call_waits

    def present(self) -> set[int]:
        return set(told(self.presence.everyone()))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_state_is_told_with_who_the_server_knows_it_to_be(bench: Bench) -> None:
    bench.say(bench.attend(5), 7, 0, b'{"user":{"name":"somebody else","color":"#fff"},"cursor":1}')
    (entry,) = decode_awareness(bench.presence.take_changes()[0])
    assert json.loads(entry.state) == {
        "user": {"name": "user 5", "color": "#fff", "id": str(UUID(int=5))},
        "cursor": 1,
    }


def test_changes_of_one_tick_are_one_payload_and_told_once(bench: Bench) -> None:
    one, two = bench.attend(1), bench.attend(2)
    bench.say(one, 1, 0)
    bench.say(one, 1, 1)
    bench.say(two, 2, 0)
    payloads = bench.presence.take_changes()
    assert len(payloads) == 1
    assert told(payloads) == {1: (1, True), 2: (0, True)}
    assert bench.presence.take_changes() == []


def test_an_echo_is_dropped_by_its_bytes(bench: Bench) -> None:
    one, two = bench.attend(1), bench.attend(2)
    bench.say(two, 2, 0)
    bench.say(one, 1, 0)
    (relayed,) = bench.presence.take_changes()
    for _ in range(200):  # far more than the rate of own entries
        assert bench.is_echo(two, relayed)
    assert not bench.is_echo(two, payload(2, 1))
    assert bench.presence.take_changes() == []


def test_an_authors_echo_of_what_it_and_others_said_in_one_tick_is_dropped_by_its_bytes(bench: Bench) -> None:
    attendees = [bench.attend(client) for client in range(8)]
    for client, attendee in enumerate(attendees):
        bench.say(attendee, client, 0)
    (relayed,) = bench.presence.take_changes()
    entries = decode_awareness(relayed)
    assert bench.is_echo(attendees[0], relayed)
    for client, attendee in enumerate(attendees):
        # y-protocols takes no state of its own client, and the echo holds what it took.
        assert bench.is_echo(attendee, encode_awareness([each for each in entries if each.client_id != client]))


def test_an_echo_of_what_a_newcomer_was_told_is_dropped_by_its_bytes(bench: Bench) -> None:
    one, two = bench.attend(1), bench.attend(2)
    bench.say(one, 1, 0)
    bench.say(two, 2, 3)
    bench.say(two, 2, 3, GONE)
    bench.presence.take_changes()
    assert [bench.is_echo(one, each) for each in bench.presence.everyone()] == [True]
    assert [bench.is_echo(one, each) for each in bench.presence.everyone_and_gone()] == [True]


def test_the_first_words_of_a_connection_are_read_though_they_were_relayed_before(bench: Bench) -> None:
    one = bench.attend(1)
    bench.say(one, 1, 0)
    (relayed,) = bench.presence.take_changes()
    bench.presence.leave(one, bench.now)
    back = bench.attend(1)
    assert not bench.is_echo(back, relayed)
    assert bench.presence.receive(back, relayed, bench.now) == payload(1, 0, GONE)
    assert bench.is_echo(back, relayed)


def test_echoes_are_forgotten_after_a_while(bench: Bench) -> None:
    one = bench.attend(1)
    bench.say(one, 1, 0)
    (relayed,) = bench.presence.take_changes()
    for _ in range(2):
        assert bench.is_echo(one, relayed)
        bench.now += 60
        bench.presence.expire(bench.now)
    assert not bench.is_echo(one, relayed)


def test_a_foreign_id_is_ignored_without_a_word(bench: Bench) -> None:
    one, two = bench.attend(1), bench.attend(2)
    bench.say(one, 1, 0)
    bench.changes()
    assert bench.say(two, 1, 9) is None
    assert bench.say(two, 1, 9, GONE) is None
    assert bench.changes() == {}
    assert bench.present() == {1}


@pytest.mark.parametrize(
    ("clock", "state", "is_taken"), [(4, b"{}", False), (5, b"{}", False), (5, GONE, True), (6, b"{}", True)]
)
def test_only_what_is_newer_counts_as_in_y_protocols(bench: Bench, clock: int, state: bytes, is_taken: bool) -> None:
    one = bench.attend()
    bench.say(one, 1, 5)
    bench.changes()
    bench.say(one, 1, clock, state)
    assert bool(bench.changes()) is is_taken


def test_R8_what_a_socket_said_goes_with_it(bench: Bench) -> None:
    one, two = bench.attend(1), bench.attend(2)
    bench.say(one, 1, 3)
    bench.say(two, 2, 0)
    bench.changes()
    bench.presence.leave(one, bench.now)
    assert bench.changes() == {1: (3, False)}
    assert bench.present() == {2}


def test_R8_the_newest_socket_of_a_user_takes_over_an_id_and_the_old_ones_end_removes_nothing(bench: Bench) -> None:
    old, new = bench.attend(1), bench.attend(1)
    bench.say(old, 1, 3)
    assert bench.say(new, 1, 3) == payload(1, 3, GONE)
    bench.changes()
    bench.presence.leave(old, bench.now)
    assert bench.changes() == {}
    assert bench.present() == {1}
    bench.presence.leave(new, bench.now)
    assert bench.present() == set()


def test_R8_a_take_over_that_is_refused_leaves_the_entry_with_its_owner(bench: Bench) -> None:
    old, new = bench.attend(1), bench.attend(1)
    bench.say(old, 1, 3)
    with pytest.raises(ProtocolViolation):
        bench.say(new, 1, 4, b'{"a":"%s"}' % (b"x" * 200))
    bench.presence.leave(new, bench.now)
    assert bench.present() == {1}
    bench.presence.leave(old, bench.now)
    assert bench.present() == set()


def test_one_who_is_back_with_the_clock_of_its_removal_is_told_to_announce_itself(bench: Bench) -> None:
    one = bench.attend()
    bench.say(one, 1, 3)
    bench.presence.leave(one, bench.now)
    back = bench.attend()
    assert bench.say(back, 1, 3) == payload(1, 3, GONE)
    assert bench.present() == set()
    assert bench.say(back, 1, 4) is None
    assert bench.present() == {1}


def test_nobody_else_brings_back_who_is_gone(bench: Bench) -> None:
    one, two = bench.attend(1), bench.attend(2)
    bench.say(one, 1, 3)
    bench.presence.leave(one, bench.now)
    assert bench.say(two, 1, 3) is None
    assert bench.present() == set()


def test_R8_what_is_not_renewed_expires(bench: Bench) -> None:
    one, two = bench.attend(1), bench.attend(2)
    bench.say(one, 1, 0)
    bench.say(two, 2, 0)
    bench.now += 20
    bench.say(two, 2, 1)
    bench.changes()
    bench.now += 10
    bench.presence.expire(bench.now)
    assert bench.changes() == {1: (0, False)}
    assert bench.present() == {2}


def test_R13_removals_are_forgotten_after_a_while(bench: Bench) -> None:
    for client in range(5000):
        attendee = bench.attend()
        bench.say(attendee, client, 0)
        bench.presence.leave(attendee, bench.now)
    assert len(told(bench.presence.everyone_and_gone())) == 4096
    bench.now += 121
    bench.presence.expire(bench.now)
    assert bench.presence.everyone_and_gone() == []


def test_a_connection_has_only_so_many_ids(bench: Bench) -> None:
    one = bench.attend()
    for client in range(5):
        bench.say(one, client, 0)
    assert bench.present() == {0, 1, 2}


@pytest.mark.parametrize(("size", "is_taken"), [(100, True), (101, False)])
def test_a_state_has_a_largest_size(bench: Bench, size: int, is_taken: bool) -> None:
    state = b'{"a":"' + b"x" * (size - 8) + b'"}'
    assert len(state) == size
    if is_taken:
        bench.say(bench.attend(), 1, 0, state)
    else:
        with pytest.raises(ProtocolViolation) as refused:
            bench.say(bench.attend(), 1, 0, state)
        assert refused.value.code == TOO_LARGE


def test_what_comes_too_often_is_told_later_and_a_flood_ends_the_socket(bench: Bench) -> None:
    one = bench.attend()
    for clock in range(15):
        bench.say(one, 1, clock)
    assert bench.changes() == {1: (14, True)}
    assert bench.has_deferred()
    bench.presence.release_deferred()
    assert bench.changes() == {1: (14, True)}
    assert not bench.has_deferred()
    for clock in range(15, 10 * 10 + 9):
        bench.say(one, 1, clock)
    with pytest.raises(ProtocolViolation) as refused:
        bench.say(one, 1, 1000)
    assert refused.value.code == RATE


def test_the_roll_is_called_when_someone_is_back_and_not_often(bench: Bench) -> None:
    one = bench.attend()
    bench.say(one, 1, 3)
    assert not bench.presence.call_roll(bench.now)
    bench.presence.leave(one, bench.now)
    back = bench.attend()
    bench.say(back, 1, 3)
    assert bench.presence.call_roll(bench.now)
    assert not bench.roll_call_waits()
    bench.say(back, 1, 3)
    assert not bench.presence.call_roll(bench.now)
    assert bench.roll_call_waits()
    bench.now += ROLL_CALL_SECONDS
    assert bench.presence.call_roll(bench.now)


def test_own_nulls_speak_of_own_entries_alone(bench: Bench) -> None:
    one, two = bench.attend(1), bench.attend(2)
    assert bench.presence.own_nulls(one) is None
    bench.say(one, 1, 3)
    bench.say(two, 2, 0)
    nulls = bench.presence.own_nulls(one)
    assert nulls is not None
    assert told([nulls]) == {1: (3, False)}


def test_many_states_are_told_in_payloads_that_may_be_echoed() -> None:
    presence = Presence(RoomLimits())
    for client in range(100):
        attendee = presence.attend(UserId(UUID(int=client)), "user", 0.0)
        presence.receive(attendee, payload(client, 0, b'{"a":"%s"}' % (b"x" * 2000)), 0.0)
    payloads = presence.everyone()
    assert len(told(payloads)) == 100
    assert max(map(len, payloads)) < RoomLimits().awareness_frame_bytes


# ---------------------------------------------------------------------- several instances


def test_R8_what_connections_here_say_is_announced_once_and_what_was_heard_never(bench: Bench) -> None:
    one = bench.attend(1)
    bench.say(one, 1, 0)
    bench.hear(THERE, 2, 0, user=2)
    assert bench.announced() == [(one.number, 1, 0, True)]
    assert bench.announced() == []
    bench.say(one, 1, 1)
    bench.say(one, 1, 2)
    assert bench.announced() == [(one.number, 1, 2, True)]
    bench.presence.leave(one, bench.now)
    assert bench.announced() == [(one.number, 1, 2, False)]


def test_what_is_told_later_because_it_comes_too_often_is_announced_later(bench: Bench) -> None:
    one, clocks = bench.attend(), []
    for clock in range(15):
        bench.say(one, 1, clock)
        clocks += [told[2] for told in bench.announced()]
    assert clocks == list(range(10))
    bench.presence.release_deferred()
    assert bench.announced() == [(one.number, 1, 14, True)]


def test_one_who_asks_is_told_of_everyone_here_and_of_nobody_else(bench: Bench) -> None:
    one, two = bench.attend(1), bench.attend(2)
    bench.say(one, 1, 4)
    bench.say(two, 2, 5)
    bench.say(two, 2, 5, GONE)
    bench.hear(THERE, 3, 6, user=3)
    assert announced(bench.presence.own_announcements()) == [(one.number, 1, 4, True)]


def test_what_is_heard_is_told_to_connections_here_and_to_newcomers(bench: Bench) -> None:
    bench.hear(THERE, 2, 7, b'{"user":{"id":"2"}}', user=2)
    assert bench.changes() == {2: (7, True)}
    assert bench.present() == {2}
    bench.hear(THERE, 2, 7, GONE, user=2)
    assert bench.changes() == {2: (7, False)}
    assert bench.present() == set()


def test_an_instance_does_not_take_its_own_words_for_anothers(bench: Bench) -> None:
    bench.hear(HERE, 2, 7, user=2)
    assert bench.present() == set()


@pytest.mark.parametrize(
    ("clock", "state", "is_taken"),
    [(4, b"{}", False), (5, b"{}", False), (4, GONE, False), (5, GONE, True), (6, b"{}", True)],
)
def test_what_the_bus_repeats_or_brings_late_is_old(bench: Bench, clock: int, state: bytes, is_taken: bool) -> None:
    bench.hear(THERE, 2, 5)
    bench.changes()
    bench.hear(THERE, 2, clock, state)
    assert bool(bench.changes()) is is_taken


def test_a_state_that_comes_after_its_removal_stays_away(bench: Bench) -> None:
    bench.hear(THERE, 2, 5, GONE)
    bench.hear(THERE, 2, 5)
    assert bench.present() == set()
    bench.hear(THERE, 2, 6)
    assert bench.present() == {2}


@pytest.mark.parametrize("owner", [(THERE, 2), (YONDER, 1)])
def test_R8_only_its_owner_removes_what_was_heard(bench: Bench, owner: tuple[InstanceId, int]) -> None:
    bench.hear(THERE, 2, 5, connection=1)
    bench.changes()
    instance, connection = owner
    bench.hear(instance, 2, 9, GONE, connection=connection)
    assert bench.changes() == {}
    assert bench.present() == {2}


def test_R8_an_old_instances_late_word_does_not_remove_the_new_ones_entry(bench: Bench) -> None:
    bench.hear(THERE, 1, 5, connection=4)
    bench.hear(YONDER, 1, 6, connection=2)
    bench.changes()
    bench.hear(THERE, 1, 5, GONE, connection=4)
    assert bench.changes() == {}
    bench.hear(YONDER, 1, 6, GONE, connection=2)
    assert bench.changes() == {1: (6, False)}


def test_R8_a_client_that_went_elsewhere_is_no_longer_its_old_sockets(bench: Bench) -> None:
    old = bench.attend(1)
    bench.say(old, 1, 5)
    bench.announced()
    bench.hear(THERE, 1, 6)
    bench.changes()
    assert bench.presence.own_nulls(old) is None
    bench.presence.leave(old, bench.now)
    assert bench.changes() == {}
    assert bench.announced() == []
    assert bench.present() == {1}


def test_R8_a_client_that_came_from_elsewhere_takes_its_entry_along_with_its_first_words(bench: Bench) -> None:
    bench.hear(THERE, 1, 5)
    bench.changes()
    new = bench.attend(1)
    assert bench.say(new, 1, 5) == payload(1, 5, GONE)
    assert bench.presence.call_roll(bench.now)
    assert bench.presence.take_roll_call()
    bench.hear(THERE, 1, 5, GONE)
    assert bench.present() == {1}
    assert bench.say(new, 1, 6) is None
    assert bench.announced() == [(new.number, 1, 6, True)]


def test_one_whom_others_believe_gone_is_asked_to_announce_itself(bench: Bench) -> None:
    new = bench.attend(1)
    bench.say(new, 1, 5)
    bench.now += ROLL_CALL_SECONDS
    bench.hear(THERE, 1, 5, GONE)
    assert bench.present() == {1}
    assert bench.presence.call_roll(bench.now)
    assert not bench.presence.take_roll_call()


def test_nobody_takes_another_users_id_from_elsewhere(bench: Bench) -> None:
    one = bench.attend(1)
    bench.say(one, 1, 0)
    bench.hear(THERE, 1, 9, user=2)
    bench.hear(THERE, 1, 9, GONE, user=2)
    assert bench.changes() == {1: (0, True)}
    bench.hear(THERE, 3, 0, user=3)
    bench.changes()
    assert bench.say(one, 3, 9) is None
    assert bench.changes() == {}


def test_an_echo_of_what_was_heard_from_elsewhere_is_dropped_by_its_bytes(bench: Bench) -> None:
    one = bench.attend(1)
    bench.say(one, 1, 0)
    bench.hear(THERE, 2, 0, user=2)
    assert [bench.is_echo(one, each) for each in bench.presence.take_changes()] == [True]
    assert bench.changes() == {}
    assert bench.announced() == [(one.number, 1, 0, True)]


def test_R8_entries_of_a_dead_instance_expire_for_those_here_and_for_later_joiners(bench: Bench) -> None:
    bench.hear(THERE, 2, 5, user=2)
    bench.hear(YONDER, 3, 5, user=3)
    bench.now += 20
    bench.hear(YONDER, 3, 6, user=3)
    bench.hear(THERE, 2, 5, user=2)  # told again, not renewed
    bench.changes()
    bench.now += 10
    bench.presence.expire(bench.now)
    assert bench.changes() == {2: (5, False)}
    assert bench.present() == {3}
    assert bench.announced() == []


def test_what_expires_here_is_announced(bench: Bench) -> None:
    one = bench.attend(1)
    bench.say(one, 1, 3)
    bench.announced()
    bench.now += 30
    bench.presence.expire(bench.now)
    assert bench.announced() == [(one.number, 1, 3, False)]


def test_a_roll_call_of_another_instance_is_not_told_on(bench: Bench) -> None:
    bench.presence.must_call_roll(bench.now)
    assert bench.presence.call_roll(bench.now)
    assert not bench.presence.take_roll_call()
    bench.presence.must_call_roll(bench.now + ROLL_CALL_SECONDS / 4)
    assert not bench.roll_call_waits()
    bench.presence.must_call_roll(bench.now + ROLL_CALL_SECONDS)
    assert bench.roll_call_waits()


@pytest.mark.parametrize("was_removed", [False, True])
def test_the_roll_is_called_when_someone_is_seen_to_be_back_elsewhere(bench: Bench, was_removed: bool) -> None:
    bench.hear(THERE, 2, 5)
    if was_removed:
        bench.hear(THERE, 2, 5, GONE)
    assert not bench.roll_call_waits()
    bench.hear(YONDER, 2, 6)
    assert bench.presence.call_roll(bench.now)
    assert not bench.presence.take_roll_call()


def test_who_only_renews_itself_elsewhere_calls_no_roll(bench: Bench) -> None:
    for clock, state in ((5, b"{}"), (6, b"{}"), (6, GONE), (7, b"{}")):
        bench.hear(THERE, 2, clock, state)
    assert bench.present() == {2}
    assert not bench.roll_call_waits()
