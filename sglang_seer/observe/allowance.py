"""A bound on the time that work on the side takes."""

from __future__ import annotations

import time
from collections.abc import Callable


class Allowance:
    """Lets work go on for at most `share` of the time: after s seconds of work the next may start s / share later."""

    def __init__(self, share: float, clock: Callable[[], float] = time.perf_counter) -> None:
        """Raises ValueError for a share that is not between 0 and 1."""
        if not 0.0 < share < 1.0:
            raise ValueError(f"share: got {share}, wanted between 0 and 1")
        self._share = share
        self._clock = clock
        self._due_s = clock()

    @property
    def open(self) -> bool:
        """Whether work may start now."""
        return self._clock() >= self._due_s

    def spend(self, work: Callable[[], None]) -> None:
        """Do the work, and wait for the next accordingly, also if it fails."""
        began_s = self._clock()
        try:
            work()
        finally:
            ended_s = self._clock()
            self._due_s = began_s + (ended_s - began_s) / self._share
