"""Whose request an agent loop sends: its group and number, known to the worker and not to the client it calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Trajectory:
    """One sample of a group on its way through an agent loop. turns: requests that it has sent."""

    group: str | None
    sample: int
    turns: int = 0


_CURRENT: ContextVar[Trajectory | None] = ContextVar("seer_trajectory", default=None)


def trajectory_of(fields: Mapping[str, Any], number: int) -> Trajectory:
    """From the batch fields of a sample. number: its place among equal prompts of this worker.

    veRL's newer trainers number the samples of a prompt (`session_id`); the older ones number the whole batch
    (`priority`), which tells siblings apart as well, also those that went to different workers.
    """
    uid = fields.get("uid")
    sample = fields.get("session_id", fields.get("priority", number))
    return Trajectory(None if uid is None else str(uid), int(sample))


@contextmanager
def within(trajectory: Trajectory) -> Iterator[None]:
    """What is sent in this block, by this task, belongs to the trajectory."""
    token = _CURRENT.set(trajectory)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def current() -> Trajectory:
    """The trajectory of this task; one of its own for a caller that is no agent loop."""
    return _CURRENT.get() or Trajectory(None, 0)
