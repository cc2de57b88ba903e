"""Memory over time, and whether it grows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

LOOK_S = 1.0
MIB = 2**20
# A process may grow by so much over the calm half. Allocators keep what they once had, and text fills its index until
# the weights change; a leak has no such end.
MOST_GROWTH_MIB = 48.0
LEAST_LOOKS = 8


class Growth(NamedTuple):
    """mib_a_minute: slope of a straight line through the looks, by least squares. mib: what it makes of their span."""

    process: str
    minutes: float
    mib_a_minute: float
    mib: float


class Memory:
    """Looks at processes once a second. rss_mib: of each that lives, by name."""

    def __init__(self, rss_mib: Callable[[], Mapping[str, float]]) -> None:
        self._rss_mib = rss_mib
        self.looks: dict[str, list[tuple[float, float]]] = {}

    def look(self) -> None:
        now_s = time.monotonic()
        for process, size in self._rss_mib().items():
            self.looks.setdefault(process, []).append((now_s, size))

    async def watch(self) -> None:
        """Until it is cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_S)

    def growth(self, since_s: float) -> list[Growth]:
        """Of each process that was there at `since_s` (monotonic clock) and still is. One without looks is left out."""
        last_s = max((looks[-1][0] for looks in self.looks.values()), default=since_s)
        found = []
        for process, looks in self.looks.items():
            if looks[-1][0] == last_s and looks[0][0] <= since_s + LOOK_S:
                calm = [look for look in looks if look[0] >= since_s]
                if len(calm) >= LEAST_LOOKS:
                    found.append(growth_of(process, calm))
        return found


def growth_of(process: str, looks: list[tuple[float, float]]) -> Growth:
    """looks: seconds and MiB, at least two."""
    seconds, mib = np.array(looks).T
    slope = float(np.polyfit(seconds - seconds[0], mib, 1)[0])
    span_s = float(seconds[-1] - seconds[0])
    return Growth(process, span_s / 60, slope * 60, slope * span_s)


def leaks(found: list[Growth]) -> list[str]:
    """What grew more than it may."""
    return [
        f"{one.process}: grew by {one.mib:.0f} MiB in {one.minutes:.1f} minutes, wanted at most {MOST_GROWTH_MIB:.0f}"
        for one in found
        if one.mib > MOST_GROWTH_MIB
    ]
