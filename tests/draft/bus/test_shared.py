"""The queues between an engine and the thread of its bus: bounded, the oldest goes first, nothing waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sglang_seer.draft.bus import BusError, Deltas, SharedText, deltas
from sglang_seer.draft.bus.deltas import stacked
from tests.draft.bus.members import GROUP, PACE, TIMEOUT_S, VOCAB_SIZE, until


class HeldBus:
    """A bus that does nothing until it is let go, and then gives what it was told to."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.held = threading.Event()
        self.published: list[Deltas] = []
        self.arriving: list[Deltas] = []
        self.error: Exception | None = None
        self.groups: set[int] = set()

    def exchange(self, timeout_s: float) -> list[Deltas]:
        self.held.set()
        self.go.wait()
        time.sleep(timeout_s)
        if self.error is not None:
            raise self.error
        arrived, self.arriving = self.arriving, []
        return arrived

    def publish(self, new: Deltas) -> None:
        self.published.append(new)

    def status(self) -> dict[str, Any]:
        return {}

    def subscribe(self, groups: Sequence[int]) -> None:
        self.groups |= set(groups)

    def unsubscribe(self, groups: Sequence[int]) -> None:
        self.groups -= set(groups)

    def catch_up(self, groups: Sequence[int]) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing is open."""


def shared(bus: HeldBus, most_queued_tokens: int) -> SharedText:
    """On this bus; GROUP is fetched if the bus has been let go."""
    pace = replace(PACE, flush_s=0.0, most_queued_tokens=most_queued_tokens)
    one = SharedText(lambda known: bus, vocab_size=VOCAB_SIZE, pace=pace)
    if bus.go.is_set() and bus.error is None:
        one.subscribe([GROUP])
        until(lambda: GROUP in bus.groups)
    return one


def test_own_text_beyond_the_bound_is_dropped_oldest_first_and_counted() -> None:
    bus = HeldBus()
    one = shared(bus, 10)
    assert bus.held.wait(TIMEOUT_S)
    for i in range(20):
        one.publish(deltas([GROUP], [i], [0], [2], [i, i]))
    assert one.status()["queued_out_tokens"] == 10
    assert one.dropped_out_tokens == 30
    bus.go.set()
    until(lambda: bool(bus.published))
    (sent,) = bus.published
    assert sent.requests.tolist() == [15, 16, 17, 18, 19]
    one.close()


def test_text_that_nobody_takes_is_dropped_and_what_follows_is_a_text_of_its_own() -> None:
    bus = HeldBus()
    bus.go.set()
    one = shared(bus, 100)
    for i in range(20):
        bus.arriving = [deltas([GROUP], [1], [10 * i], [10], range(10 * i, 10 * i + 10))]
        until(lambda: not bus.arriving)
    until(lambda: one.status()["queued_in_tokens"] + one.dropped_in_tokens == 200)
    assert one.dropped_in_tokens > 0
    found: dict[int, list[int]] = {}
    for _ in range(20):
        text = one.take(1000).text
        for request, offset, piece in zip(text.requests.tolist(), text.offsets.tolist(), text.pieces(), strict=True):
            assert offset == len(found.setdefault(request, []))
            found[request] += piece.tolist()
    assert all(tokens == list(range(tokens[0], tokens[0] + len(tokens))) for tokens in found.values())
    assert sum(map(len, found.values())) + one.dropped_in_tokens == 200
    one.close()


def test_a_step_takes_no_more_than_it_asked_for() -> None:
    bus = HeldBus()
    bus.go.set()
    one = shared(bus, 10_000)
    bus.arriving = [stacked([(GROUP, i, 0, range(10), True) for i in range(10)])]
    until(lambda: one.status()["queued_in_tokens"] == 100)
    taken = [one.take(25) for _ in range(6)]
    assert [len(part.text.tokens) for part in taken] == [20, 20, 20, 20, 20, 0]
    assert sum(len(part.finished) for part in taken) == 10
    one.close()


def test_what_was_under_way_when_a_group_was_left_is_not_given() -> None:
    bus = HeldBus()
    bus.go.set()
    one = shared(bus, 10_000)
    bus.arriving = [deltas([GROUP], [1], [0], [2], [1, 2])]
    until(lambda: one.status()["queued_in_tokens"] == 2)
    one.unsubscribe([GROUP])
    assert len(one.take().text) == 0
    until(lambda: GROUP not in bus.groups)
    one.subscribe([GROUP])
    until(lambda: GROUP in bus.groups)
    bus.arriving = [deltas([GROUP], [1], [0], [2], [1, 2])]
    until(lambda: len(one.take().text) == 1)
    one.close()


def test_a_bus_that_fails_stops_and_says_so_and_the_engine_goes_on() -> None:
    bus = HeldBus()
    bus.error = BusError("the bus broke")
    bus.go.set()
    one = shared(bus, 100)
    until(lambda: "the bus broke" in str(one.status()["state"]))
    one.publish(deltas([GROUP], [1], [0], [1], [1]))
    one.subscribe([GROUP])
    assert len(one.take().text) == 0
    assert one.status()["queued_out_tokens"] == 0
    one.close()
