"""Every count and duration of the benchmarks, in one place."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Steady:
    """Edits at a fixed rate. rate: edits a second in each room; clients: in each room, all of whom write."""

    rooms: int
    clients: int
    rate: float


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace or course that is replayed in so many rooms at once. edits: at most.

    writers: of a course, or of a trace with one author; a trace of several authors has a writer for each. window: edits of a
    writer that are on their way; rate: edits a second in each room instead.
    """

    name: str
    rooms: int
    writers: int
    readers: int
    edits: int
    window: int = 0
    rate: float = 0.0


@dataclass(frozen=True, slots=True)
class Knobs:
    """How much is measured. Seconds are those of load, without setting up and checking."""

    runs: int = 3
    seconds: float = 5.0
    warm_up_seconds: float = 1.0
    idle_connections: tuple[int, ...] = (1_000, 5_000, 9_000)
    idle_per_room: int = 20
    course_nodes: tuple[tuple[int, int], ...] = ((50, 200), (2_000, 20))  # nodes of a course, courses opened
    steady: tuple[Steady, ...] = (
        Steady(1, 20, 10),
        Steady(1, 20, 100),
        Steady(1, 20, 1_000),
        Steady(1, 100, 100),
        Steady(1, 500, 100),
        Steady(10, 20, 10),
        Steady(50, 4, 2),
    )
    saturated_rooms: int = 10
    saturated_clients: int = 20
    saturated_writers: int = 2
    fan_out_clients: tuple[int, ...] = (20, 100, 300, 500)  # of one room, beside other servers
    many_rooms: tuple[int, ...] = (1, 5, 20, 50)  # saturated beside other servers, apart from `saturated_rooms`
    compared_connections: tuple[int, ...] = (1_000, 5_000)  # idle, beside other servers
    compared_courses: tuple[int, int] = (2_000, 20)  # nodes of a course, courses opened
    compared_histories: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)  # edits, beside a stock document
    windows: tuple[int, ...] = (1, 8)  # edits of one writer that are on their way
    receipts: Steady = field(default=Steady(50, 4, 20))
    two_instances: tuple[Steady, ...] = (Steady(1, 20, 100), Steady(10, 20, 50))
    history_edits: tuple[int, ...] = (1_000, 100_000)
    history_joins: int = 9
    graph_nodes: int = 2_500  # of the course that is joined
    joins: int = 9  # one after the other
    joiners: int = 200  # at once
    rejoiners: int = 100
    offline_edits: int = 20  # of each
    commits: int = 500  # bare commits of the same disk
    floor_room: int = 100  # clients of the one room in which ours is saturated beside the C floor; 0: none is
    floor_fan_outs: tuple[tuple[int, int], ...] = ((20, 100), (100, 100))  # clients of a room, edits a second
    histories: tuple[int, ...] = (1_000, 100_000)  # edits by stock clients; `--edits` sets one
    present: int = 50  # clients of one room that move
    moves: float = 20.0  # of each, a second
    stock_present: int = 50  # the same with stock clients
    stock_processes: int = 2
    traces: tuple[Trace, ...] = (
        Trace("trace-friendsforever", 1, 2, 3, 30_000, window=8),
        Trace("trace-friendsforever", 10, 2, 3, 5_000, window=8),
        Trace("trace-friendsforever", 1, 2, 18, 500, rate=100),
        Trace("trace-clownschool", 1, 3, 3, 30_000, window=8),
        Trace("trace-sveltecomponent", 1, 10, 3, 30_000, window=8),
        Trace("trace-seph-blog1", 1, 10, 3, 30_000, window=8),
        Trace("trace-automerge-paper", 1, 10, 3, 30_000, window=8),
        Trace("course-medium-metacademy", 1, 20, 3, 30_000, window=8),
        Trace("course-large-exercism", 1, 20, 3, 30_000, window=8),
        Trace("course-large-exercism", 1, 20, 3, 1_000, rate=200),
    )
    trace_turn: int = 200  # edits that one of several writers makes of a single author's trace before the next goes on


FULL = Knobs()

SMOKE = Knobs(
    runs=1,
    seconds=1.0,
    warm_up_seconds=0.2,
    idle_connections=(100,),
    course_nodes=((50, 5),),
    steady=(Steady(1, 20, 100), Steady(5, 4, 5)),
    saturated_rooms=2,
    windows=(8,),
    receipts=Steady(5, 4, 20),
    two_instances=(Steady(2, 4, 20),),
    history_edits=(1_000,),
    history_joins=3,
    graph_nodes=200,
    joins=3,
    joiners=20,
    rejoiners=10,
    commits=50,
    floor_room=0,
    floor_fan_outs=(),
    histories=(1_000,),
    present=10,
    stock_present=6,
    traces=(
        Trace("trace-friendsforever", 1, 2, 2, 1_000, window=8),
        Trace("course-small-git-es", 1, 5, 2, 1_000, window=8),
    ),
)
"""Enough to see that everything runs and is right, within a minute. Its figures say nothing."""
