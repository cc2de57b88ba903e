"""What all groups of a rollout have in common: how far log lengths differ between prompts and within one.

    log length of a response = mean of its group + noise,   mean ~ N(centre, between),   noise ~ N(0, within)

The three numbers are fitted by empirical Bayes to every response seen. Unfinished and cut responses count through the
probability of being that long at least: without them the fit would see the short ones only, because they end first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import log, sqrt
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sglang_seer.context.remaining import hazard

Floats = npt.NDArray[np.float64]

_PASSES = 30
_SETTLED = 1e-4
# Of a variance: a factor of e^2 either way, more than any recorded text has. Where nearly all responses are cut at
# their limit, the likelihood grows with the spread without end.
_WIDEST = 4.0


@dataclass(frozen=True, slots=True)
class Population:
    """centre: mean log length of groups. between, within: variances of log length, between groups and within one."""

    centre: float
    between: float
    within: float

    def information(self, members: int) -> float:
        """Standard deviation of the change that one finished member more makes to a group's mean log length.

        members: those that have finished before it.
        """
        variance = 1 / (1 / self.between + members / self.within)
        return variance / sqrt(variance + self.within)

    def close_to(self, other: Population) -> bool:
        """Whether no answer under one would differ enough from that under the other to matter."""
        apart = max(abs(log(self.between / other.between)), abs(log(self.within / other.within)))
        return abs(self.centre - other.centre) < 0.02 and apart < 0.1


@dataclass(frozen=True, slots=True)
class Prior:
    """What is assumed before anything is known, and how much it weighs.

    Groups count as long as their limit, give or take a factor of e^sqrt(centre_variance). The variances weigh as much
    as `between_groups` groups and `within_members` responses.
    """

    between: float = 0.25
    within: float = 0.16
    centre_variance: float = 1.0
    between_groups: float = 1.0
    within_members: float = 4.0

    def population(self, limit_tokens: int) -> Population:
        """Of a rollout of which nothing is known."""
        return Population(log(limit_tokens), self.between, self.within)


class Evidence(NamedTuple):
    """One group: log lengths of ended members, and of the others (log of what they exceed, how many of them)."""

    finished: Sequence[float]
    beyond: Sequence[tuple[float, int]]


@cache
def _hazard_table() -> tuple[Floats, Floats]:
    places = np.linspace(-8.0, 8.0, 2049)
    return places, np.array([hazard(float(place)) for place in places])


def hazards(z: Floats) -> Floats:
    """`hazard` of an array, to six digits: numpy has no erfc."""
    places, values = _hazard_table()
    far = np.maximum(z, 8.0)
    return np.where(z > 8.0, far + 1 / far - 2 / far**3, np.interp(z, places, values))


def fit(groups: Sequence[Evidence], prior: Prior, anchor: float, start: Population) -> Population:
    """The population that explains the groups best, by expectation-maximisation on Laplace's approximation.

    anchor: log of the generation limit, where the prior puts groups. start: where to begin, the last fit.
    Cost: linear in the number of members, a few milliseconds for ten thousand.
    """
    count = np.array([len(one.finished) for one in groups], dtype=np.float64)
    total = np.array([sum(one.finished) for one in groups], dtype=np.float64)
    squares = np.array([sum(x * x for x in one.finished) for one in groups], dtype=np.float64)
    owner = np.array([g for g, one in enumerate(groups) for _ in one.beyond], dtype=np.intp)
    bound = np.array([b for one in groups for b, _ in one.beyond], dtype=np.float64)
    times = np.array([n for one in groups for _, n in one.beyond], dtype=np.float64)
    centre, between, within = start.centre, start.between, start.within
    mean = (centre / between + total / within) / (1 / between + count / within)
    for _ in range(_PASSES):
        before = centre, between, within
        # Two Newton steps towards the most likely means: the posterior is log-concave, and the last pass came close.
        for _ in range(2):
            z = (bound - mean[owner]) / np.sqrt(within)
            pull = hazards(z)
            sharp = pull * (pull - z)
            told = (count + _sums(owner, sharp * times, len(groups))) / within
            slope = (centre - mean) / between + (total - count * mean) / within
            slope += _sums(owner, pull * times, len(groups)) / np.sqrt(within)
            mean = mean + slope / (1 / between + told)
        variance = 1 / (1 / between + told)
        # What each group's data alone would say, weighted by how sure it is.
        weight = told / (1 + between * told)
        says = (mean * (1 / between + told) - centre / between) / (1 + between * told)
        centre = float((says.sum() + anchor / prior.centre_variance) / (weight.sum() + 1 / prior.centre_variance))
        known = float((variance * told).sum())
        between = float(((mean - centre) ** 2).sum() + prior.between_groups * prior.between)
        between = min(between / (known + prior.between_groups), _WIDEST)
        residual = float((squares - 2 * mean * total + count * mean**2 + count * variance).sum())
        residual += float((times * sharp * variance[owner]).sum()) + prior.within_members * prior.within
        above = z > 0
        residual += within * float((times * (1 + z * pull))[above].sum())
        members = float(count.sum() + times[above].sum() - (times * z * pull)[~above].sum()) + prior.within_members
        within = min(residual / members, _WIDEST)
        if abs(centre - before[0]) < _SETTLED and max(abs(between / before[1] - 1), abs(within / before[2] - 1)) < 1e-3:
            break
    return Population(centre, between, within)


def _sums(owner: npt.NDArray[np.intp], values: Floats, groups: int) -> Floats:
    return np.bincount(owner, weights=values, minlength=groups).astype(np.float64, copy=False)
