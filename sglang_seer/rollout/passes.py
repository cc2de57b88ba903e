"""Passes over the request buffer: one as soon as a chunk could start that could not before, as often as it pays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection

from sglang_seer.rollout.buffer import Assignment, RequestBuffer
from sglang_seer.rollout.client import RolloutError
from sglang_seer.rollout.config import RolloutConfig
from sglang_seer.rollout.timing import until_set

# A pass over the waiting requests costs at most this share of the time, and waits at most so long for more to do.
PASS_SHARE = 0.1
LONGEST_PAUSE_S = 0.05


async def assignments(
    config: RolloutConfig,
    buffer: RequestBuffer,
    wake: asyncio.Event,
    *,
    may_start: Callable[[], bool] = lambda: True,
    doubted: Callable[[], Collection[str]] = frozenset,
    said: Callable[[], str],
) -> AsyncIterator[Assignment]:
    """Chunks that are to start now, without an end. wake: set it when one could start that could not before.

    may_start: whether any may. doubted: engines that get none for now. said: what is known of engines that are down.
    Raises RolloutError where requests waited and no engine was up for `no_engine_s`.
    """
    loop = asyncio.get_running_loop()
    none_since_s: float | None = None
    while True:
        wake.clear()
        started_s = loop.time()
        if buffer.up or not len(buffer):
            none_since_s = None
        else:
            none_since_s = none_since_s or started_s
            if started_s - none_since_s > config.no_engine_s:
                raise RolloutError(f"no engine for {config.no_engine_s:.0f} s: {said()}")
        if may_start():
            for assignment in buffer.assign(doubted()):
                yield assignment
        # What changes while a pass would still be paid for is taken together by the next one.
        await asyncio.sleep(min((loop.time() - started_s) / PASS_SHARE, LONGEST_PAUSE_S))
        await until_set(wake, config.poll_s)
