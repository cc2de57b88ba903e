"""Waiting with a limit. `asyncio.wait_for` before Python 3.12 may lose a cancellation that comes with the result."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


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


async def within(work: Coroutine[Any, Any, T], seconds: float) -> T:
    """The result of `work`. Raises TimeoutError, and ends `work`, after so many seconds."""
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait((task,), timeout=seconds)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if not done:
        task.cancel()
        raise TimeoutError(f"no answer after {seconds:g} s")
    return task.result()
