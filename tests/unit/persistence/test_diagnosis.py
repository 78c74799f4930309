"""Finding the update that kills whoever reads it, by trying shorter and shorter beginnings of a log."""

from collections.abc import Callable, Sequence
from uuid import UUID

import pytest

from constructure_sync.persistence.doctor.diagnosis import Diagnosis
from constructure_sync.replica.examination import Finding
from constructure_sync.replica.pool import WorkerFailed
from schemas.ids import CommitId, Seq
from storage.contracts import Head, StoredUpdate
from storage.repair import LogContent, Repair
from tests.unit.protocol.updates import section, text, update

UPDATES = [update(section(client, 0, text("a"))) for client in range(1, 101)]


class DyingWorkers:
    """Compute in place, and die of a job of this name that is given the deadly update."""

    def __init__(self, job: str, deadly: bytes) -> None:
        self._job = job
        self._deadly = deadly
        self.jobs = 0

    async def run(self, function: Callable[..., object], /, *arguments: Sequence[bytes], timeout: float) -> object:
        self.jobs += 1
        if function.__name__ == self._job and self._deadly in arguments[0]:
            raise WorkerFailed(function.__name__)
        return function(*arguments)


def content(payloads: list[bytes], quarantined: frozenset[Seq] = frozenset()) -> LogContent:
    updates = [StoredUpdate(Seq(seq), payload) for seq, payload in enumerate(payloads, start=1)]
    head = Head(Seq(len(payloads)), CommitId(UUID(int=1).int))
    return LogContent(head, head.commit, Seq(0), [], updates, quarantined)


def diagnosis(workers: DyingWorkers) -> Diagnosis:
    return Diagnosis(Repair(None), workers, 1.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("seq", [1, 2, 63, 64, 65, 100])
@pytest.mark.parametrize(
    ("job", "problem"),
    [
        ("first_fault", "its reader does not survive it, or takes too long"),
        ("project", "pycrdt refuses it, or does not survive it"),
    ],
)
async def test_R13_the_update_that_kills_a_worker_is_found(seq: int, job: str, problem: str) -> None:
    workers = DyingWorkers(job, UPDATES[seq - 1])

    assert await diagnosis(workers).bisect(content(UPDATES)) == Finding(f"update {seq}", problem)
    assert workers.jobs <= 10


async def test_the_first_of_what_kills_pycrdt_and_what_is_bad_is_told() -> None:
    damaged = [*UPDATES[:49], UPDATES[49][:-2], *UPDATES[50:]]

    found = await diagnosis(DyingWorkers("project", UPDATES[19])).bisect(content(damaged))
    assert found is not None
    assert found.place == "update 20"
    damaged[49] = update(section(200, 0, text("b", origin=(201, 0))))
    found = await diagnosis(DyingWorkers("project", UPDATES[69])).bisect(content(damaged))
    assert found is not None
    assert found.place == "update 50"


async def test_what_is_in_quarantine_is_passed_over() -> None:
    damaged = [*UPDATES[:49], UPDATES[49][:-2], *UPDATES[50:]]

    assert await diagnosis(DyingWorkers("", b"")).bisect(content(damaged, frozenset({Seq(50)}))) is None


async def test_R13_verifying_survives_a_log_that_kills_its_worker() -> None:
    for job in ("examine", "project"):
        workers = DyingWorkers(job, UPDATES[5])
        if job == "examine":

            async def die(*_: object, **__: object) -> object:
                raise WorkerFailed("examine")

            workers.run = die  # type: ignore[method-assign]
        (finding,) = await diagnosis(workers).verify(content(UPDATES))
        assert finding.place == "document"
        assert "bisect it" in finding.problem
