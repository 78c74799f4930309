"""What is compared, and what it should come to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.figures import Figures

OURS: Final = "constructure-sync"
FLOOR: Final = "C floor"
BEST_PEER: Final = "the best peer"

Round = Mapping[str, Figures]
"""The figures of one round by server; of those that ran."""


@dataclass(frozen=True, slots=True)
class Aim:
    """How ours should stand. A ratio is that of one round; the more, the better is ours.

    against: BEST_PEER, FLOOR, or the name of another figure of ours; at_least: the ratio; limit: what counts in their place, the
    most that the figure itself may be.
    """

    against: str = BEST_PEER
    at_least: float = 1.0
    limit: float | None = None

    @property
    def words(self) -> str:
        """What is aimed at."""
        if self.limit is not None:
            return f"≤ {self.limit:g}"
        if self.against == BEST_PEER:
            return f"≥ {self.at_least:g} ×"
        if self.against == FLOOR:
            return f"≥ {self.at_least:.0%} of the {FLOOR}"
        return f"≤ {1 / self.at_least:g} × {self.against}"

    def told(self, ratio: float) -> str:
        """Return a ratio in the words of the aim."""
        if self.limit is not None:
            return f"{self.limit / ratio:.3g}"
        if self.against == BEST_PEER:
            return f"{ratio:.2f} ×"
        return f"{ratio:.0%}" if self.against == FLOOR else f"{1 / ratio:.2f} ×"

    def ratio(self, figures: Round, figure: str, *, more_is_better: bool) -> float | None:
        """Return how ours stands in one round; None where ours, or what it is compared with, did not run."""
        if OURS not in figures:
            return None
        ours = figures[OURS][figure]
        other = self.limit
        if other is None:
            others = self._others(figures, figure)
            other = (max(others) if more_is_better else min(others)) if others else None
        if not other or not ours:
            return None
        return ours / other if more_is_better else other / ours

    def _others(self, figures: Round, figure: str) -> Sequence[float]:
        if self.against == BEST_PEER:
            return [each[figure] for name, each in figures.items() if name not in (OURS, FLOOR)]
        if self.against == FLOOR:
            return [figures[FLOOR][figure]] if FLOOR in figures else []
        return [figures[OURS][self.against]]


@dataclass(frozen=True, slots=True)
class Compared:
    """A figure of a row. aims: what it should come to; none where it is only told."""

    figure: str
    aims: tuple[Aim, ...] = ()
    more_is_better: bool = False
