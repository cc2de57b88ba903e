"""The run file: what happened in a rollout and when, a JSON object a line.

`python -m sglang_seer rollout --run FILE` writes it, `report` reads it. Every line has a `type`, one of those below,
and `at_s`, seconds since the rollout began; lines are in that order, and the first is a `Start`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

log = logging.getLogger(__name__)

VERSION = 1
FLUSH_BYTES = 1 << 16


class Start(msgspec.Struct, tag="start", frozen=True, kw_only=True):
    """version: of this format. began_s: since the epoch. settings: of the rollout, for the reader's eye."""

    at_s: float = 0.0
    version: int = VERSION
    began_s: float
    settings: dict[str, Any]


class Engine(msgspec.Struct, tag="engine", frozen=True, kw_only=True):
    """state: `up`, `down` or `removed`, and why. capacity_tokens: KV slots."""

    at_s: float
    engine: str
    state: str
    why: str
    capacity_tokens: int
    slots: int


class Queue(msgspec.Struct, tag="queue", frozen=True, kw_only=True):
    """Requests of the rollout: waiting in the buffer, on an engine, and ended until now."""

    at_s: float
    waiting: int
    running: int
    finished: int


class EngineLoad(msgspec.Struct, tag="load", frozen=True, kw_only=True):
    """What an engine says of itself, and what the rollout has there.

    running, waiting, used_tokens: the engine's requests and its KV slots in use. in_flight, reserved_tokens: requests
    of ours, and KV slots that they may need until their chunks end.
    """

    at_s: float
    engine: str
    running: int
    waiting: int
    used_tokens: int
    capacity_tokens: int
    in_flight: int
    reserved_tokens: int


class Submit(msgspec.Struct, tag="submit", frozen=True, kw_only=True):
    """A request came. restored_tokens: that a journal had of it already."""

    at_s: float
    group: str
    sample: int
    input_tokens: int
    limit_tokens: int
    restored_tokens: int = 0


class Assign(msgspec.Struct, tag="assign", frozen=True, kw_only=True):
    """A request left the buffer for an engine.

    reason: why it went first. placement: why there, `affinity` or `load`. tokens: most of this chunk. generated_tokens:
    before it. expected_tokens: of the whole response, as its group was estimated. moved_from: where the chunk before
    ran, if elsewhere. pull_from: an engine that holds much more of its prefix.
    """

    at_s: float
    group: str
    sample: int
    engine: str
    reason: str
    placement: str
    tokens: int
    generated_tokens: int
    expected_tokens: float
    moved_from: str | None = None
    pull_from: str | None = None


class ChunkEnd(msgspec.Struct, tag="chunk", frozen=True, kw_only=True):
    """A chunk ended. end: `length`, `stop`, or what broke it off. verify_steps: forward passes that verified a draft,
    0 without speculation; tokens / verify_steps is the acceptance length. pulled_tokens: of the cached ones, out of the
    KV store that engines share."""

    at_s: float
    began_s: float
    group: str
    sample: int
    engine: str
    tokens: int
    end: str
    input_tokens: int
    cached_tokens: int
    verify_steps: int
    retractions: int
    pulled_tokens: int = 0


class Finish(msgspec.Struct, tag="finish", frozen=True, kw_only=True):
    """A sample ended; its group's estimate for a new response before and after it was known."""

    at_s: float
    group: str
    sample: int
    finish_reason: str
    output_tokens: int
    expected_before_tokens: float
    expected_tokens: float


Event = Start | Engine | Queue | EngineLoad | Submit | Assign | ChunkEnd | Finish
_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Event)


class EventLog:
    """Writes a run file; a context manager. Raises OSError for a file that cannot be made.

    A write that fails later ends the file, not the rollout; `broken` says why.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.broken: str | None = None
        self._lines = bytearray()
        self._began = time.monotonic()
        self._file = path.open("wb", buffering=0)
        self.add(Start(began_s=time.time(), settings=settings))

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()
        self._file.close()

    @property
    def now_s(self) -> float:
        """Seconds since the file was begun."""
        return time.monotonic() - self._began

    def add(self, event: Event) -> None:
        """Takes an event; it is in the file after the next flush."""
        if self.broken is None:
            self._lines += _ENCODER.encode(event)
            self._lines += b"\n"
            if len(self._lines) >= FLUSH_BYTES:
                self.flush()

    def flush(self) -> None:
        try:
            while self._lines:
                del self._lines[: self._file.write(self._lines)]
        except OSError as error:
            self.broken = f"{self.path}: {error}"
            self._lines.clear()
            log.error("the run file ends here, the rollout goes on: %s", self.broken)


def read_events(path: Path) -> Iterator[Event]:
    """Events of a run file in its order; a last line that is torn is left out.

    Raises ValueError, with the line number, for a file that is not there or is no run file.
    """
    try:
        with path.open("rb") as lines:
            number = 0
            for number, line in enumerate(lines, 1):
                if number > 1 and not line.endswith(b"\n"):
                    return
                yield _event(line, number, path)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; wanted a run file, written by rollout --run") from error
    if not number:
        raise ValueError(f"{path}: wanted a run file, written by rollout --run; saw an empty file")


def _event(line: bytes, number: int, path: Path) -> Event:
    try:
        event: Event = _DECODER.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}, line {number}: {error}; wanted a run file, written by rollout --run") from error
    if (number == 1) != isinstance(event, Start):
        raise ValueError(f"{path}, line {number}: wanted a run file with one start line, the first; saw {line[:80]!r}")
    if isinstance(event, Start) and event.version != VERSION:
        raise ValueError(f"{path}: a run file of version {event.version}; wanted version {VERSION}")
    return event
