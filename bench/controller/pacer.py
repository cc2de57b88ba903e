"""Ends the chunks of many stand-in engines at a fixed rate, whatever the controller does (an open loop).

Little's law gives how long a chunk takes: the requests in flight over the rate. Each event of a chunk waits for its
part of that time. There is a line for every number of events that are left; each line but the first keeps its share of
what is wanted in flight, and passes on what it has besides, at most as many as chunks end. Where fewer are in flight
the first line runs empty, and fewer end.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

TICK_S = 0.004


class Paced(Protocol):
    """A chunk on its way. `step` sends its next event; after the last one it does not come back."""

    @property
    def events_left(self) -> int: ...

    def step(self) -> None: ...


class Pacer:
    """rate: chunks that end a second, over all engines. events: of a whole chunk. in_flight: chunks that are wanted."""

    def __init__(self, *, rate: float, events: int, in_flight: int) -> None:
        self._rate, self._hold = rate, in_flight // events
        self._lines: list[deque[Paced]] = [deque() for _ in range(events)]

    def add(self, chunk: Paced) -> None:
        """Takes a chunk until its next event is due."""
        self._lines[min(chunk.events_left, len(self._lines)) - 1].append(chunk)

    def pass_on(self, due: int) -> None:
        """Lets so many chunks end, as far as there are as many, and others go on."""
        first = self._lines[-1]
        for line in self._lines:
            held = 0 if line is first else self._hold
            for _ in range(min(due, len(line) - held)):
                line.popleft().step()

    async def run(self) -> None:
        """Runs until it is cancelled. What is due while nobody is there is not made up for."""
        loop = asyncio.get_running_loop()
        began_s, passed = loop.time(), 0
        while True:
            await asyncio.sleep(TICK_S)
            due = int((loop.time() - began_s) * self._rate)
            self.pass_on(due - passed)
            passed = due
