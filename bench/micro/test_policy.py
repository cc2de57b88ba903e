"""What Seer adds to a scheduling pass: `pytest bench/micro --benchmark-json FILE` (pytest-benchmark).

The policy object is the real one; the requests carry only what it reads, because a thousand live ones need a server.
"""

from __future__ import annotations

import random
from array import array
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_seer.context import ContextLengths
from sglang_seer.engine.policy import SeerSchedulePolicy
from sglang_seer.engine.requests import RequestStates
from sglang_seer.schedule import Rules

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
    policy = SeerSchedulePolicy(StockPolicy(), RequestStates(0), lengths, rules=Rules(), observe_only=False)
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
