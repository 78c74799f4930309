"""What is said of a comparison: a wrong ratio, or a round counted twice, would make it worthless."""

import contextlib
import json
import socket
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from benchmarks import compare, surroundings
from benchmarks.aims import FLOOR, OURS, Aim, Compared
from benchmarks.compare import far_behind, one_round
from benchmarks.comparison import Row, rows
from benchmarks.edits import PREFIX, mark
from benchmarks.figures import GENERATOR, Figures
from benchmarks.generator import OVERLAP, Client
from benchmarks.knobs import SMOKE
from benchmarks.plots import PLOTS, series
from benchmarks.profiles import parts_of, places_of
from benchmarks.records import Measured, Profile, Records, Run, append, parse, read
from benchmarks.report import told, written
from benchmarks.servers import Loadable, World
from benchmarks.wire import Absent, LoadFailed

DELAY, MOST = (
    Compared("delay ms", (Aim(at_least=1.5),)),
    Compared("delivered/s", (Aim(FLOOR, 0.6),), more_is_better=True),
)
ON = {"machine": "a machine", "commit": "c0ffee"}


def named(name: str) -> World:
    @contextlib.contextmanager
    def world(_: int) -> Iterator[Loadable]:
        yield cast(Loadable, name)

    return world


def a_row(figures: Mapping[str, Figures], order: list[str] | None = None) -> Row:
    """Return a row that these servers meet with these figures; one without any fails."""

    def load(world: World) -> Figures:
        with world(1) as target:
            name = cast(str, target)
        if order is not None:
            order.append(name)
        if not figures[name]:
            raise LoadFailed("lost an edit")
        return figures[name]

    return Row("row", "a row", load, (DELAY, MOST), {name: named(name) for name in figures})


def figures_of(delay: float, delivered: float, busy: float = 10.0) -> Figures:
    return {DELAY.figure: delay, MOST.figure: delivered, GENERATOR: busy}


def a_round(number: int, **figures: Figures) -> Measured:
    return Measured("row", number, ON, {name.replace("_", " "): Run(each) for name, each in figures.items()})


def test_a_peer_that_was_always_far_behind_is_left_out_after_two_rounds() -> None:
    best, slow, mixed = figures_of(4.0, 100.0), figures_of(9.0, 49.0), figures_of(9.0, 60.0)
    row = a_row({OURS: best, "a": best, "slow": slow, "mixed": mixed, FLOOR: slow})
    rounds = [one_round(row, number, {}) for number in range(2)]
    assert not far_behind(row, rounds[:1])
    assert list(far_behind(row, rounds)) == ["slow"]
    third = one_round(row, 2, far_behind(row, rounds))
    assert third.runs["slow"].failure.startswith("left out")
    assert list(far_behind(row, [*rounds, third])) == ["slow"]
    once_near = one_round(a_row({OURS: best, "a": best, "slow": best, "mixed": slow, FLOOR: slow}), 1, {})
    assert not far_behind(row, [rounds[0], once_near])


def test_a_ratio_is_to_the_best_peer_of_its_round_and_above_one_where_ours_is_better() -> None:
    figures = {
        OURS: figures_of(2.0, 300.0),
        "a": figures_of(5.0, 100.0),
        "b": figures_of(4.0, 50.0),
        FLOOR: figures_of(1.0, 400.0),
    }
    assert Aim().ratio(figures, DELAY.figure, more_is_better=False) == 2.0
    assert Aim().ratio(figures, MOST.figure, more_is_better=True) == 3.0
    assert Aim(FLOOR).ratio(figures, MOST.figure, more_is_better=True) == 0.75
    assert Aim(limit=1.0).ratio(figures, DELAY.figure, more_is_better=False) == 0.5
    assert Aim(GENERATOR, 0.5).ratio(figures, DELAY.figure, more_is_better=False) == 5.0
    assert Aim().ratio({OURS: figures[OURS], FLOOR: figures[FLOOR]}, DELAY.figure, more_is_better=False) is None
    assert Aim().ratio({"a": figures["a"]}, DELAY.figure, more_is_better=False) is None


@pytest.mark.parametrize(
    ("aim", "words", "told_as"),
    [
        (Aim(at_least=1.5), "≥ 1.5 ×", "2.00 ×"),
        (Aim(FLOOR, 0.6), "≥ 60% of the C floor", "200%"),
        (Aim("stock ms", 0.5), "≤ 2 × stock ms", "0.50 ×"),
        (Aim(limit=50.0), "≤ 50", "25"),
    ],
)
def test_an_aim_and_what_came_out_are_told_in_the_same_words(aim: Aim, words: str, told_as: str) -> None:
    assert (aim.words, aim.told(2.0)) == (words, told_as)


def test_the_order_changes_with_the_round_and_a_failure_is_told() -> None:
    order: list[str] = []
    row = a_row({OURS: figures_of(1.0, 1.0), "a": {}, "b": figures_of(2.0, 2.0)}, order)
    first, second = one_round(row, 0, {}), one_round(row, 1, {})
    assert order == [OURS, "a", "b", "a", "b", OURS]
    assert first.runs["a"].failure == "failed: lost an edit"
    assert set(second.figures) == {OURS, "b"}


def test_who_failed_is_not_asked_again_in_that_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    row = a_row({OURS: {}, "a": {}, "b": figures_of(2.0, 2.0)}, order)
    monkeypatch.setattr(compare, "rows", lambda _: [row])
    monkeypatch.setattr(compare, "draw", lambda *_: {})
    raw = tmp_path / "results.jsonl"
    assert compare.run(["--json", str(raw), "--output", str(tmp_path / "RESULTS.md"), "--rounds", "2"]) == 1
    assert order == [OURS, "a", "b", "b", OURS]
    assert [each.runs["a"].failure for each in read(raw).of("row")] == ["failed: lost an edit"] * 2


def test_what_is_not_on_this_machine_has_no_figures() -> None:
    def load(_: World) -> Figures:
        raise Absent("no compiler")

    row = Row("row", "a row", load, (DELAY,), {OURS: named(OURS)})
    assert one_round(row, 0, {}).runs[OURS].failure == "not here: no compiler"


def test_a_comparison_in_pieces_measures_each_round_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    row = a_row({OURS: figures_of(2.0, 300.0), "a": figures_of(4.0, 100.0)}, order)
    monkeypatch.setattr(compare, "rows", lambda _: [row])
    monkeypatch.setattr(compare, "draw", lambda *_: {})
    raw, report = tmp_path / "results.jsonl", tmp_path / "RESULTS.md"
    words = ["--json", str(raw), "--output", str(report), "--rounds"]
    assert compare.run([*words, "2"]) == 0
    assert compare.run([*words, "3", "--append"]) == 0
    assert compare.run([*words, "9", "--append", "--within", "-1"]) == 0
    assert [each.number for each in read(raw).of("row")] == [0, 1, 2]
    assert len(order) == 6
    told_once = report.read_text(encoding="utf-8")
    assert compare.run(["--from", str(raw), "--output", str(report)]) == 0
    assert report.read_text(encoding="utf-8") == told_once
    assert len(order) == 6


def test_a_report_says_what_is_met_what_falls_short_and_what_disturbed_it() -> None:
    figures = {OURS: figures_of(2.0, 100.0, busy=90.0), "a": figures_of(4.0, 50.0), FLOOR: figures_of(1.0, 200.0)}
    row = a_row(figures)
    rounds = [one_round(row, number, {}) for number in range(5)]
    loud = replace(rounds[0], on=ON, runs={**rounds[0].runs, "a": Run({}, failure="failed: lost an edit")})
    profile = Profile("row", ON, {"kernel": 40.0}, {"reader": 60.0})
    report = written([row], Records([loud, *rounds[1:]], [profile]), {"a picture": "plots/a.svg"})
    assert "| a row | delay ms | ≥ 1.5 × | 2.00 × | 2.00 × | 4 | met, few rounds |" in report
    assert "| a row | delivered/s | ≥ 60% of the C floor | 50% | 50% | 5 | **falls short** |" in report
    assert "▲ constructure-sync: the generator used more than 85 % of its core in 5 of 5 runs" in report
    assert "- a: failed: lost an edit" in report
    assert "- commit: c0ffee" in report
    assert "| a row | 40 |" in report
    assert "![a picture](plots/a.svg)" in report


def test_a_median_beyond_the_aim_with_a_quartile_below_is_told_apart() -> None:
    delays = (1.0, 1.0, 3.0, 3.0, 1.0)
    rounds = [a_round(n, **{OURS: figures_of(each, 1.0), "a": figures_of(2.0, 1.0)}) for n, each in enumerate(delays)]
    row = a_row({OURS: {}, "a": {}})
    assert "met by the median" in written([row], Records(rounds, []), {})
    assert "2.00 ×, 0.67 ×" in "\n".join(told(row, rounds))


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    measured, profile = a_round(3, a=figures_of(1.0, 2.0)), Profile("row", ON, {"kernel": 1.0}, {}, "a note")
    append(file, measured)
    append(file, profile)
    append(file, replace(profile, note="a later one"))
    assert read(file) == Records([measured], [replace(profile, note="a later one")])
    assert read(tmp_path / "none") == Records([], [])
    with pytest.raises(ValueError, match="not one of"):
        parse([json.dumps({"kind": "other"})])


def test_a_picture_holds_medians_along_its_axis() -> None:
    def at(row: str, *values: float) -> list[Measured]:
        return [replace(a_round(0, ours={"delivered/s": value}), row=row) for value in values]

    records = Records([*at("rooms-50", 5.0), *at("saturation-8", 1.0, 2.0, 9.0), *at("fan-out-20", 1.0)], [])
    plot = next(plot for plot in PLOTS if plot.file == "throughput")
    points = series(plot, records)["delivered/s"]["ours"]
    assert [(point.x, point.median, point.least, point.greatest) for point in points] == [(10, 2, 1, 9), (50, 5, 5, 5)]


def test_samples_are_told_by_place_and_by_whose_code_had_called() -> None:
    places = places_of(
        ["30.00%;[kernel.kallsyms]", "", "10.00% ;libpython3.11.so.1.0   ", " 5.5%;_native.cpython-311.so"]
    )
    assert places == {"kernel": 30.0, "our reader in C": 5.5, "interpreter": 10.0}
    stacks = [
        "main (constructure_sync/cli.py:1);take (constructure_sync/rooms/room.py:9);read (constructure_sync/protocol/known.py:7) 3",
        "main (constructure_sync/cli.py:1);append (storage/log.py:2);execute (sqlalchemy/engine/base.py:3) 1",
    ]
    assert parts_of(stacks) == {"reader": 75.0, "log": 25.0}
    assert parts_of([]) == {}


def test_every_row_is_named_once_and_every_aim_has_what_it_stands_beside() -> None:
    all_of_them = rows(SMOKE)
    assert len({row.name for row in all_of_them}) == len(all_of_them)
    for row in all_of_them:
        assert next(iter(row.worlds)) == OURS
        for compared in row.compared:
            assert all(aim.against != FLOOR or FLOOR in row.worlds for aim in compared.aims)


def test_edits_are_counted_in_a_shared_buffer_wherever_reads_cut_them() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        client = Client.__new__(Client)
        client.arrived, client._carry, client._line = 0, bytes(OVERLAP), ours
        buffer = bytearray(64 + OVERLAP)
        buffer[:] = (PREFIX * 10)[: len(buffer)]  # what an earlier read of another client left there
        sent = b"".join(b"\x82\x10" + mark(number) for number in range(20))
        for at in range(0, len(sent), 11):
            theirs.sendall(sent[at : at + 11])
            client.count_into(buffer, memoryview(buffer))
        assert client.arrived == 20
        theirs.close()
        with pytest.raises(LoadFailed):
            client.count_into(buffer, memoryview(buffer))


def test_what_others_use_is_no_part_of_a_run() -> None:
    with surroundings.noise() as heard:
        sum(range(2_000_000))
    assert heard.steal >= 0.0
    assert heard.others >= 0.0
