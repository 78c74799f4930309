"""What the generator sends and reads: a wrong edit or a lost mark would make every figure worthless."""

import itertools

from hypothesis import given
from hypothesis import strategies as st
from pycrdt import Doc, Map, Text

from benchmarks.edits import PROPERTIES, TEXT, Author, mark
from benchmarks.figures import Case, measure, quantile
from benchmarks.wire import BINARY, Frames, client_frame, sync_payload, update_frame
from constructure_sync.protocol.known import Known

PIECES = st.lists(st.integers(1, 40), min_size=1, max_size=40)


def test_edits_are_taken_whole_and_hold_what_the_author_says() -> None:
    known, text, properties = Known(), Text(), Map[str]()
    document: Doc[Text | Map[str]] = Doc({TEXT: text, PROPERTIES: properties})
    authors = [Author(5), Author(2**31 + 7)]
    for number in range(600):
        update = authors[number % 3 % 2].edit(number)
        part = known.close(update)
        assert part.update == update
        known.add(part)
        document.apply_update(update)
    for author in authors:
        typed = b"".join(author.typed).decode()
        assert typed in str(text)
        assert author.last_property is not None
        assert properties[str(author.client_id)] == author.last_property.decode()
    assert len(str(text)) == sum(len(each) for author in authors for each in author.typed)


@given(PIECES, st.lists(st.integers(0, 99_999_999), max_size=30))
def test_marks_and_frames_survive_any_cut(sizes: list[int], numbers: list[int]) -> None:
    author = Author(9)
    updates = [author.edit(number) for number in numbers]
    sent = b"".join(_unmasked(update_frame(update)) for update in updates)
    frames, got = Frames(), list[tuple[int, bytes]]()
    for piece in _cut(sent, sizes):
        got += frames.feed(piece)
    assert [opcode for opcode, _ in got] == [BINARY] * len(updates)
    assert [sync_payload(payload) for _, payload in got] == [(2, update) for update in updates]
    assert all(mark(number) in payload for number, (_, payload) in zip(numbers, got, strict=True))


def test_frames_of_every_length_are_read() -> None:
    for size in (0, 125, 126, 65_535, 65_536, 200_000):
        message = b"x" * size
        assert list(Frames().feed(_unmasked(client_frame(message)))) == [(BINARY, message)]


def test_figures_are_medians_with_their_spread() -> None:
    values = iter((3.0, 1.0, 2.0))
    outcome = measure(Case("case", lambda: {"figure ms": next(values)}), 3)
    assert "2 [1 .. 3]" in " ".join(outcome.lines()[1].split())
    assert quantile([5.0, 1.0, 3.0], 0.5) == 3.0
    assert quantile([], 0.99) == 0.0


def _unmasked(frame: bytes) -> bytes:
    """Return a client's frame as a server would send it: without the mask, which is of zeros."""
    head = {126: 4, 127: 10}.get(frame[1] & 0x7F, 2)
    assert frame[head : head + 4] == bytes(4)
    return frame[:1] + bytes((frame[1] & 0x7F,)) + frame[2:head] + frame[head + 4 :]


def _cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces, at = list[bytes](), 0
    for size in itertools.cycle(sizes):
        if at >= len(data):
            return pieces
        pieces.append(data[at : at + size])
        at += size
    return pieces
