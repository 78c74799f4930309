"""The proxy that loses published messages takes nothing else, however what a server says is cut into reads."""

import random
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.redis_proxy import Frames, RedisProxy

PUSHED = b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$9\r\n\r\n$7\r\nx\r\n\r\n"
PUBLISHED = b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$0\r\n\r\n"
SHARDED = b">3\r\n$8\r\nsmessage\r\n$1\r\na\r\n$1\r\nx\r\n"
OTHERS = [
    b"+PONG\r\n",
    b":1\r\n",
    b"-ERR no\r\n",
    b"_\r\n",
    b"$-1\r\n",
    b"*-1\r\n",
    b"*0\r\n",
    b"$7\r\nmessage\r\n",
    b">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n",
    b"%2\r\n$4\r\nmode\r\n$7\r\ncluster\r\n$5\r\nproto\r\n:3\r\n",
    b"*2\r\n*3\r\n:0\r\n:1\r\n*2\r\n$0\r\n\r\n:7\r\n~1\r\n,1.5\r\n",
    b"|1\r\n$3\r\nttl\r\n:5\r\n+OK\r\n",
    b"=6\r\ntxt:ab\r\n",
]
SAID = st.lists(st.sampled_from([PUSHED, PUBLISHED, SHARDED, *OTHERS]))


@settings(deadline=None)
@given(SAID, st.lists(st.integers(0, 400)))
def test_what_a_server_says_is_cut_into_its_answers(said: list[bytes], cuts: list[int]) -> None:
    stream, frames = b"".join(said), Frames()
    places = sorted({0, len(stream), *[cut for cut in cuts if cut < len(stream)]})
    pieces = [stream[start:end] for start, end in pairwise(places)]
    assert [frame for piece in pieces for frame in frames.split(piece)] == said


@settings(deadline=None)
@given(SAID)
def test_only_published_messages_are_lost(said: list[bytes]) -> None:
    proxy = RedisProxy(1, random.Random(1), loss=1.0)
    left = proxy.with_losses(Frames().split(b"".join(said)))
    assert left == b"".join([frame for frame in said if frame in OTHERS])
    assert proxy.lost == len([frame for frame in said if frame not in OTHERS])
