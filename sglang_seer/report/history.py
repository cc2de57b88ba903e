"""What a run file says, put together: requests, their chunks and moves, and what each engine held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from sglang_seer.report.figures import tail_start_s
from sglang_seer.rollout.events import (
    Assign,
    ChunkEnd,
    Engine,
    EngineLoad,
    Event,
    Finish,
    Queue,
    Start,
    Submit,
    read_events,
)

# Ends of a chunk that went as it should.
GOOD_ENDS = ("length", "stop")


@dataclass(frozen=True, slots=True)
class Ended:
    """A sample that ended. Times in seconds since the run began."""

    group: str
    sample: int
    submitted_s: float
    finished_s: float
    output_tokens: int
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Migration:
    """A chunk that went on elsewhere. cause: `balance` or `affinity` of placement, or `engine failed`."""

    at_s: float
    source: str
    target: str
    cause: str


@dataclass(slots=True, kw_only=True)
class History:
    """One rollout; times are seconds since its first request. engines: in the order in which they came. loads: by
    engine, by time."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    engines: list[str] = field(default_factory=list)
    submitted: dict[tuple[str, int], Submit] = field(default_factory=dict)
    ended: list[Ended] = field(default_factory=list)
    finishes: list[Finish] = field(default_factory=list)
    assigns: list[Assign] = field(default_factory=list)
    chunks: list[ChunkEnd] = field(default_factory=list)
    migrations: list[Migration] = field(default_factory=list)
    states: list[Engine] = field(default_factory=list)
    loads: dict[str, list[EngineLoad]] = field(default_factory=dict)
    queue: list[Queue] = field(default_factory=list)
    last_s: float = 0.0

    @property
    def whole(self) -> bool:
        """Whether every sample is known to have ended."""
        return len(self.ended) == len(self.submitted)

    @property
    def end_s(self) -> float:
        """When the last sample ended, or where the file ends if some did not."""
        return max(one.finished_s for one in self.ended) if self.whole else self.last_s

    @property
    def tail_s(self) -> float | None:
        """From when on only the last tenth of the samples ran; None if not all are known to have ended."""
        return tail_start_s(self.ended) if self.whole else None

    def down(self, engine: str) -> list[tuple[float, float]]:
        """Spans in which the engine took no chunks after it had been up."""
        spans: list[tuple[float, float]] = []
        since: float | None = None
        for state in self.states:
            if state.engine != engine:
                continue
            if state.state == "up" and since is not None:
                spans.append((since, state.at_s))
                since = None
            elif state.state != "up" and since is None:
                since = state.at_s
        if since is not None and since < self.end_s:
            spans.append((since, self.end_s))
        return spans


def read(path: Path) -> History:
    """Raises ValueError, with the line's number, for a file that is no run file or in which nothing was asked for."""
    return collect(list(read_events(path)), path)


def collect(events: Sequence[Event], path: Path) -> History:
    """Puts together the events of a file. Raises ValueError for none of a request, or one before the request came."""
    first_s = min((event.at_s for event in events if isinstance(event, Submit)), default=None)
    if first_s is None:
        raise ValueError(f"{path}: the run holds no request, so there is nothing to show")
    history = History(name=path.name)
    broken: dict[tuple[str, int], bool] = {}
    for number, told in enumerate(events, 1):
        event = _since(told, first_s)
        history.last_s = max(history.last_s, event.at_s)
        if isinstance(event, Assign | ChunkEnd | Finish) and (event.group, event.sample) not in history.submitted:
            raise ValueError(
                f"{path}, line {number}: sample {event.sample} of group {event.group!r} was not submitted before"
            )
        match event:
            case Start():
                history.settings = event.settings
            case Submit():
                history.submitted[event.group, event.sample] = event
            case Assign():
                history.assigns.append(event)
                _know(history, event.engine)
                if event.moved_from is not None:
                    failed = broken.get((event.group, event.sample), False)
                    cause = "engine failed" if failed else "balance" if event.placement == "load" else event.placement
                    history.migrations.append(Migration(event.at_s, event.moved_from, event.engine, cause))
            case ChunkEnd():
                history.chunks.append(event)
                _know(history, event.engine)
                broken[event.group, event.sample] = event.end not in GOOD_ENDS
            case Finish():
                history.finishes.append(event)
                asked = history.submitted[event.group, event.sample]
                ended = Ended(
                    event.group, event.sample, asked.at_s, event.at_s, event.output_tokens, event.finish_reason
                )
                history.ended.append(ended)
            case Engine():
                _know(history, event.engine)
                history.states.append(event)
            case EngineLoad():
                _know(history, event.engine)
                history.loads[event.engine].append(event)
            case Queue():
                history.queue.append(event)
    return history


def _since(event: Event, first_s: float) -> Event:
    if isinstance(event, ChunkEnd):
        return msgspec.structs.replace(event, at_s=event.at_s - first_s, began_s=event.began_s - first_s)
    return msgspec.structs.replace(event, at_s=event.at_s - first_s)


def _know(history: History, engine: str) -> None:
    if engine not in history.loads:
        history.engines.append(engine)
        history.loads[engine] = []
