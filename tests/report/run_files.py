"""A run file whose figures can be worked out by hand: four samples of two groups on two engines, one of which dies."""

from collections.abc import Iterable
from pathlib import Path

from sglang_seer.rollout import events
from sglang_seer.rollout.events import Event, EventLog

A, B = "http://127.0.0.1:30000", "http://127.0.0.1:30001"
# The file begins before the first request comes.
OFFSET_S = 5.0


def submit(at_s: float, group: str, sample: int) -> Event:
    return events.Submit(at_s=OFFSET_S + at_s, group=group, sample=sample, input_tokens=5, limit_tokens=100)


def engine(at_s: float, name: str, state: str, why: str = "") -> Event:
    return events.Engine(at_s=OFFSET_S + at_s, engine=name, state=state, why=why, capacity_tokens=100, slots=2)


def load(at_s: float, name: str, used_tokens: int, waiting: int = 0) -> Event:
    return events.EngineLoad(
        at_s=OFFSET_S + at_s,
        engine=name,
        running=1,
        waiting=waiting,
        used_tokens=used_tokens,
        capacity_tokens=100,
        in_flight=1,
        reserved_tokens=50,
    )


def assign(
    at_s: float,
    group: str,
    sample: int,
    name: str,
    *,
    reason: str = "probe: nothing is known of its group",
    placement: str = "load",
    expected: float = 100.0,
    moved_from: str | None = None,
    pull_from: str | None = None,
) -> Event:
    return events.Assign(
        at_s=OFFSET_S + at_s,
        group=group,
        sample=sample,
        engine=name,
        reason=reason,
        placement=placement,
        tokens=40,
        generated_tokens=0,
        expected_tokens=expected,
        moved_from=moved_from,
        pull_from=pull_from,
    )


def chunk(
    began_s: float,
    at_s: float,
    group: str,
    sample: int,
    name: str,
    tokens: int,
    *,
    end: str = "stop",
    input_tokens: int = 5,
    cached_tokens: int = 0,
    verify_steps: int = 0,
    retractions: int = 0,
) -> Event:
    return events.ChunkEnd(
        at_s=OFFSET_S + at_s,
        began_s=OFFSET_S + began_s,
        group=group,
        sample=sample,
        engine=name,
        tokens=tokens,
        end=end,
        input_tokens=input_tokens,
        cached_tokens=cached_tokens,
        verify_steps=verify_steps,
        retractions=retractions,
    )


def finish(at_s: float, group: str, sample: int, tokens: int, *, expected: float = 25.0, reason: str = "stop") -> Event:
    return events.Finish(
        at_s=OFFSET_S + at_s,
        group=group,
        sample=sample,
        finish_reason=reason,
        output_tokens=tokens,
        expected_before_tokens=100.0,
        expected_tokens=expected,
    )


LONGEST = "longest first: 25 tokens expected (1 siblings finished)"
KEYS = [("g0", 0), ("g0", 1), ("g1", 0), ("g1", 1)]


def known_run() -> list[Event]:
    """What `test_measures.py` works out by hand."""
    return [
        engine(-0.1, A, "up"),
        engine(-0.1, B, "up"),
        *(submit(0.0, group, sample) for group, sample in KEYS),
        assign(0.0, "g0", 0, A),
        assign(0.0, "g1", 0, B),
        load(1.0, A, 50),
        load(1.0, B, 20, waiting=1),
        chunk(0.0, 2.0, "g0", 0, A, 20, verify_steps=10),
        finish(2.0, "g0", 0, 20),
        assign(2.0, "g0", 1, A, reason=LONGEST, expected=25.0),
        load(3.0, A, 80),
        chunk(0.0, 4.0, "g1", 0, B, 40, end="length"),
        assign(4.0, "g1", 1, B, reason=LONGEST),
        chunk(2.0, 5.0, "g0", 1, A, 30, retractions=1),
        finish(5.0, "g0", 1, 30),
        assign(5.0, "g1", 0, A, reason=LONGEST, moved_from=B, pull_from=B),
        engine(6.0, B, "down", "after a connection broke: refused"),
        chunk(4.0, 6.0, "g1", 1, B, 10, end="connection: reset"),
        chunk(5.0, 7.0, "g1", 0, A, 20, input_tokens=45, cached_tokens=30),
        finish(7.0, "g1", 0, 60, expected=60.0),
        assign(7.0, "g1", 1, A, reason="overdue: 7 were admitted while it waited", expected=60.0, moved_from=B),
        chunk(7.0, 10.0, "g1", 1, A, 25, input_tokens=15, cached_tokens=14, verify_steps=5),
        finish(10.0, "g1", 1, 35),
    ]


def write_run(path: Path, told: Iterable[Event]) -> Path:
    with EventLog(path, {"chunk_tokens": 40, "model": '<none> & "nothing"'}) as log:
        for event in told:
            log.add(event)
    return path
