"""What the members of one group tell about its next response, finished or not."""

from __future__ import annotations

from bisect import insort
from collections.abc import Hashable
from math import fsum, log, sqrt
from typing import NamedTuple

from sglang_seer.context.population import Evidence, Population
from sglang_seer.context.remaining import hazard

# Lengths so far are noted in steps of a twelfth: finer changes move no estimate worth the work.
_STEP = log(13 / 12)
_NEWTON_STEPS = 50


class Belief(NamedTuple):
    """Mean log length of a group: the most likely value and its variance (Laplace's approximation)."""

    mean: float
    variance: float


class Siblings:
    """Log lengths of a group's members. What it answers does not depend on the order in which it was told."""

    __slots__ = ("_belief", "_beyond", "_capped", "_finished", "_population", "_running")

    def __init__(self) -> None:
        self._finished: list[float] = []
        self._capped: list[float] = []
        self._running: dict[Hashable, int] = {}
        # How many unfinished members are at each step of length.
        self._beyond: dict[int, int] = {}
        self._population: Population | None = None
        self._belief = Belief(0.0, 0.0)

    def __bool__(self) -> bool:
        """Whether anything is known."""
        return bool(self._finished or self._capped or self._running)

    @property
    def ended(self) -> int:
        """Members that ended, by themselves or at their limit."""
        return len(self._finished) + len(self._capped)

    def finish(self, tokens: int, *, capped: bool) -> None:
        insort(self._capped if capped else self._finished, log(tokens))
        self._population = None

    def progress(self, member: Hashable, tokens: int) -> bool:
        """Whether that told anything new."""
        step = int(log(tokens) / _STEP)
        before = self._running.get(member)
        if step == before:
            return False
        if before is not None:
            self._leave(before)
        self._running[member] = step
        self._beyond[step] = self._beyond.get(step, 0) + 1
        self._population = None
        return True

    def drop(self, member: Hashable) -> bool:
        """Forget an unfinished member; False if none of that name is known."""
        step = self._running.pop(member, None)
        if step is None:
            return False
        self._leave(step)
        self._population = None
        return True

    def _leave(self, step: int) -> None:
        self._beyond[step] -= 1
        if not self._beyond[step]:
            del self._beyond[step]

    def evidence(self) -> Evidence:
        """What the fit of the population looks at."""
        return Evidence(self._finished, self._bounds())

    def _bounds(self) -> list[tuple[float, int]]:
        running = [(step * _STEP, times) for step, times in sorted(self._beyond.items())]
        return running + [(capped, 1) for capped in self._capped]

    def belief(self, population: Population) -> Belief:
        """Where the group's mean log length is, kept until something is told or the population is another."""
        if self._population is not population:
            self._belief = _most_likely(self._finished, self._bounds(), population)
            self._population = population
        return self._belief

    def belief_without(self, member: Hashable, population: Population) -> Belief:
        """As `belief`, less what the member's own length so far tells; in one step from the full answer."""
        mean, variance = self.belief(population)
        step = self._running.get(member)
        if step is None:
            return Belief(mean, variance)
        scale = sqrt(population.within)
        z = (step * _STEP - mean) / scale
        pull = hazard(z)
        precision = max(1 / variance - pull * (pull - z) / population.within, 1 / population.between)
        return Belief(mean - pull / (scale * precision), 1 / precision)


def _most_likely(finished: list[float], bounds: list[tuple[float, int]], population: Population) -> Belief:
    """Newton's method from below: unfinished members only pull upwards, and ever less so, hence no step overshoots."""
    known = 1 / population.between + len(finished) / population.within
    mean = (population.centre / population.between + fsum(finished) / population.within) / known
    told, scale = known, sqrt(population.within)
    for _ in range(_NEWTON_STEPS if bounds else 0):
        slope = population.centre / population.between + fsum(finished) / population.within - known * mean
        told = known
        for bound, times in bounds:
            z = (bound - mean) / scale
            # Whoever is that short yet says nothing.
            if z > -6:
                pull = hazard(z)
                slope += times * pull / scale
                told += times * pull * (pull - z) / population.within
        mean += slope / told
        if slope < 1e-9 * told:
            break
    return Belief(mean, 1 / told)
