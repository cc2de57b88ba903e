"""Waiting with a limit, and ending what runs, so that no cancellation is lost.

`asyncio.wait_for` before Python 3.12 loses one that comes with the result; aiohttp's timers (3.14.5) lose one that
comes in the turn of the event loop in which they run out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")
# When a task that goes on although it was cancelled is told again; what it does at its end may take a while.
TOLD_AGAIN_S = 10.0
# SGLang closes connections that were idle for 5 s; a call sent at that moment would break.
KEPT_ALIVE_S = 2.0


def run(work: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run, on uvloop where it is installed (SGLang brings it): a rollout then costs less."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    return uvloop.run(work)


async def until_set(event: asyncio.Event, seconds: float) -> None:
    """Returns when the event is set, or after so many seconds."""
    if event.is_set():
        return
    task = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait((task,), timeout=seconds)
    finally:
        task.cancel()


async def within(work: Coroutine[Any, Any, T], seconds: float | None) -> T:
    """The result of `work`. Raises TimeoutError, and ends `work`, after so many seconds; None waits for it."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(_retrieve)
    try:
        done, _ = await asyncio.wait((task,), timeout=seconds)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if not done:
        task.cancel()
        raise TimeoutError(f"no answer after {seconds:g} s")
    return task.result()


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancels tasks and returns when they have ended, whatever with.

    They may run what users bring, and libraries: one that swallows a cancellation is cancelled again.
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        ended, left = await asyncio.wait(left, timeout=TOLD_AGAIN_S)
        for task in ended:
            _retrieve(task)


def _retrieve(task: asyncio.Task[Any]) -> None:
    """An exception that nobody asks for any more is not logged as forgotten."""
    if not task.cancelled():
        task.exception()
