"""What Seer adds to a scheduling pass: `pytest bench/micro/test_policy.py --benchmark-json FILE` (pytest-benchmark).

`decide` alone is the pure part: first pass over all that wait, later passes in which one group changed.

The policy object is the real one; the requests carry only what it reads, because a thousand live ones need a server.
"""

from __future__ import annotations

import random
from array import array
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_seer.context import ContextLengths, LongestSibling
from sglang_seer.engine.policy import SeerSchedulePolicy
from sglang_seer.engine.requests import RequestStates
from sglang_seer.schedule import Rules, Waiting, WaitingQueue

GROUP_SIZE = 8
RUNNING = 32


class Request:
    """The attributes of SGLang's Req that the policy reads."""

    def __init__(self, number: int) -> None:
        group = number // GROUP_SIZE
        self.rid = str(number)
        self.origin_input_ids_unpadded = array("q", range(group, group + 100))
        self.output_ids = array("q")
        self.sampling_params = SimpleNamespace(custom_params={"seer": {"group": group}}, max_new_tokens=2048)


class StockPolicy:
    """Stands for the configured stock policy object, whose attributes are taken over."""


@pytest.fixture(params=[1_000, 10_000])
def pass_of(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """(policy, lengths, waiting queue, running batch) after the first pass; SGLang's own part of a pass is left out."""
    monkeypatch.setattr(SeerSchedulePolicy.__mro__[1], "calc_priority", lambda *_arguments: None)
    lengths = ContextLengths()
    policy = SeerSchedulePolicy(StockPolicy(), RequestStates(0), lengths, rules=Rules())
    queue = [Request(number) for number in range(request.param)]
    running = SimpleNamespace(reqs=[Request(request.param + number) for number in range(RUNNING)])
    policy.calc_priority(queue, running)
    return policy, lengths, queue, running


@pytest.mark.benchmark(group="pass in which nothing changed")
def test_unchanged(benchmark: Any, pass_of: Any) -> None:
    policy, _, queue, running = pass_of
    benchmark(policy.calc_priority, queue, running)


@pytest.mark.benchmark(group="pass after a response finished")
def test_after_a_finish(benchmark: Any, pass_of: Any) -> None:
    policy, lengths, queue, running = pass_of
    rng = random.Random(0)

    def finish() -> None:
        lengths.finish(f"id:{rng.randrange(len(queue) // GROUP_SIZE)}", rng.randrange(1, 2048))

    benchmark.pedantic(policy.calc_priority, args=(queue, running), setup=finish, rounds=300)


MODELS = pytest.mark.parametrize("make", [LongestSibling, ContextLengths])


def full_queue(make: Any) -> tuple[Any, WaitingQueue]:
    lengths = make()
    queue = WaitingQueue(lengths)
    for number in range(10_000):
        queue.add(Waiting(number, f"g{number // GROUP_SIZE}", 0, 2048, 0, object()))
    return lengths, queue


@MODELS
@pytest.mark.benchmark(group="decide, 10,000 waiting, first pass")
def test_decide_first(benchmark: Any, make: Any) -> None:
    def setup() -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (full_queue(make)[1],), {}

    benchmark.pedantic(lambda queue: queue.decide({}, 0), setup=setup, rounds=40)


@MODELS
@pytest.mark.benchmark(group="decide, 10,000 waiting, one group changed")
def test_decide_later(benchmark: Any, make: Any) -> None:
    """A member is admitted, and one of another group has grown or ended; passes after a new fit are left out."""
    lengths, queue = full_queue(make)
    rng = random.Random(0)
    running = {f"g{number}": 1 for number in range(RUNNING)}
    for group in range(10_000 // GROUP_SIZE):
        lengths.finish(f"g{group}", rng.randrange(1, 2048))
    order = queue.decide(running, 0).order
    rounds = iter(range(300))

    def setup() -> tuple[tuple[Any, ...], dict[str, Any]]:
        done = next(rounds)
        queue.remove(order[done])
        lengths.finish(f"g{rng.randrange(10_000 // GROUP_SIZE)}", rng.randrange(1, 2048))
        if lengths.changed(lengths.version - 1) is None:
            queue.decide(running, done)
        return (running, done + 1), {}

    benchmark.pedantic(queue.decide, setup=setup, rounds=200)
