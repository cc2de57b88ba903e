"""A cost that is switched on and off by the second on one engine: seconds with it against those without, beside them.

Engines differ by more than such a cost, and a machine's pace changes from minute to minute; neighbours share both.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from statistics import fmean, median
from typing import NamedTuple

import numpy as np

from bench.rows import Row

# Of a span's start, in which what was done before it still shows.
SETTLE_S = 0.3


class Step(NamedTuple):
    """One decode step: its requests, when it ended (monotonic clock), and how long it took, by clock and in CPU time of
    the thread that decodes; own_s: by clock, of it in the code that is looked at. All in seconds."""

    batch: int
    ended_s: float
    wall_s: float
    cpu_s: float
    own_s: float


def over_quiet(
    steps: Sequence[Step],
    spans: Sequence[tuple[float, float]],
    by: str,
    *,
    typical: Callable[[list[float]], float] = median,
    fewest: int = 10,
) -> list[float]:
    """Typical step of each span over the mean of those of the silences beside it, as long as it.

    spans: with the cost, in order. by: `wall_s` or `cpu_s`. typical: the median does not see a cost that few steps
    have. fewest: steps that each of the three must have.
    """
    ends = [step.ended_s for step in steps]

    def of(since_s: float, until_s: float) -> float | None:
        inside = steps[bisect_left(ends, since_s + SETTLE_S) : bisect_left(ends, until_s)]
        return typical([getattr(step, by) for step in inside]) if len(inside) >= fewest else None

    found = []
    for begun_s, ended_s in spans:
        length_s = ended_s - begun_s
        before, busy = of(begun_s - length_s, begun_s), of(begun_s, ended_s)
        after = of(ended_s, ended_s + length_s)
        if before is not None and busy is not None and after is not None:
            found.append(2 * busy / (before + after))
    return found


def own_us(steps: Sequence[Step], spans: Sequence[tuple[float, float]]) -> float:
    """Microseconds of a step, on average over the spans, in the code that is looked at.

    Raises RuntimeError where the spans have no step.
    """
    ends = [step.ended_s for step in steps]
    inside = [
        step.own_s
        for since_s, until_s in spans
        for step in steps[bisect_left(ends, since_s + SETTLE_S) : bisect_left(ends, until_s)]
    ]
    if not inside:
        raise RuntimeError("no step is in a second that is looked at")
    return 1e6 * fmean(inside)


def quartiles_row(bench: str, system: str, case: str, metric: str, values: Sequence[float]) -> Row:
    """The median of many seconds, whose extremes say more of the machine than of what is measured."""
    low, middle, high = np.percentile(values, [25, 50, 75]).tolist()
    return Row(bench, system, case, metric, middle, "1", {"lower": low, "upper": high, "seconds": len(values)})
