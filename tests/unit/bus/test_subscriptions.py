"""Which channels are subscribed to: only what changed is sent, and only the newest answer counts (BU3)."""

from hypothesis import given, settings
from hypothesis import strategies as st

from constructure_sync.bus.subscriptions import Subscriptions


def test_a_channel_is_established_when_its_answer_has_come() -> None:
    subscriptions = Subscriptions()
    subscriptions.want(b"a")
    assert subscriptions.commands() == [(b"a", True)]
    assert not subscriptions.is_established(b"a")
    assert not subscriptions.is_settled
    assert subscriptions.confirmed(b"a")
    assert subscriptions.is_established(b"a")
    assert subscriptions.is_settled


def test_what_changes_back_before_it_is_sent_is_not_sent() -> None:
    subscriptions = Subscriptions()
    subscriptions.want(b"a")
    subscriptions.unwant(b"a")
    assert subscriptions.commands() == []
    subscriptions.want(b"a")
    subscriptions.commands()
    subscriptions.confirmed(b"a")
    subscriptions.unwant(b"a")
    subscriptions.want(b"a")
    assert subscriptions.commands() == []
    assert subscriptions.is_established(b"a")


def test_the_answer_to_an_earlier_subscription_establishes_nothing() -> None:
    subscriptions = Subscriptions()
    subscriptions.want(b"a")
    subscriptions.commands()
    subscriptions.unwant(b"a")
    assert subscriptions.commands() == [(b"a", False)]
    subscriptions.want(b"a")
    assert subscriptions.commands() == [(b"a", True)]
    assert not subscriptions.confirmed(b"a")
    assert subscriptions.confirmed(b"a")


def test_an_answer_that_comes_too_late_establishes_nothing() -> None:
    subscriptions = Subscriptions()
    subscriptions.want(b"a")
    subscriptions.commands()
    subscriptions.unwant(b"a")
    assert not subscriptions.confirmed(b"a")


def test_a_new_connection_is_subscribed_to_everything_that_is_wanted() -> None:
    subscriptions = Subscriptions()
    for channel in (b"a", b"b", b"c"):
        subscriptions.want(channel)
    subscriptions.commands()
    subscriptions.confirmed(b"a")
    subscriptions.unwant(b"b")
    subscriptions.begin()
    assert not subscriptions.is_established(b"a")
    assert subscriptions.commands() == [(b"a", True), (b"c", True)]


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["want", "unwant", "send", "answer"]), st.sampled_from([b"a", b"b"]))))
def test_BU3_what_counts_as_established_is_what_the_server_has(steps: list[tuple[str, bytes]]) -> None:
    subscriptions, on_the_way, subscribed = Subscriptions(), list[tuple[bytes, bool]](), set[bytes]()
    for step, channel in [*steps, ("send", b""), *[("answer", b"")] * (len(steps) + 1)]:
        if step == "want":
            subscriptions.want(channel)
        elif step == "unwant":
            subscriptions.unwant(channel)
        elif step == "send":
            on_the_way += subscriptions.commands()
        elif on_the_way:
            answered, is_wanted = on_the_way.pop(0)
            (subscribed.add if is_wanted else subscribed.discard)(answered)
            if is_wanted:
                subscriptions.confirmed(answered)
        for each in (b"a", b"b"):
            if subscriptions.is_established(each):
                assert each in subscribed
                assert (each, False) not in on_the_way
    assert subscriptions.is_settled
    assert {each for each in (b"a", b"b") if subscriptions.is_established(each)} == subscribed
