"""Every count and duration of the benchmarks, in one place."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Steady:
    """Edits at a fixed rate. rate: edits a second in each room; clients: in each room, all of whom write."""

    rooms: int
    clients: int
    rate: float


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
    windows: tuple[int, ...] = (1, 8)  # edits of one writer that are on their way
    receipts: Steady = field(default=Steady(50, 4, 20))
    two_instances: tuple[Steady, ...] = (Steady(1, 20, 100), Steady(10, 20, 50))
    history_edits: tuple[int, ...] = (1_000, 100_000)
    history_joins: int = 9
    commits: int = 500  # bare commits of the same disk
    floor_room: int = 100  # clients of the one room in which ours is saturated beside the C floor
    floor_fan_outs: tuple[tuple[int, int], ...] = ((20, 100), (100, 100))  # clients of a room, edits a second


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
    commits=50,
    floor_room=20,
    floor_fan_outs=((20, 100),),
)
"""Enough to see that everything runs and is right, within a minute. Its figures say nothing."""
