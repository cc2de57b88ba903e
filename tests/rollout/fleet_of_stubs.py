"""Stand-in engines and rollouts on them; a stand-in computes nothing, it speaks SGLang's protocol."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from bench.controller.stub import Behaviour, Stub, whole_response
from sglang_seer.rollout.config import RolloutConfig
from sglang_seer.rollout.controller import RolloutController
from sglang_seer.rollout.samples import Prompt, Sample

# Often looked at and soon asked, so that a test that waits for a verdict on an engine does not take long. Verdicts that
# an engine could earn because the machine stood still for a moment take long: a test that wants one says so.
FAST = {
    "poll_s": 0.05,
    "silent_s": 0.3,
    "health_s": 30.0,
    "connect_s": 30.0,
    "backoff_s": 0.1,
    "no_engine_s": 60.0,
    "stalled_s": 60.0,
}
LIMIT = 120
MEAN_TOKENS = 80


def config(**options: Any) -> RolloutConfig:
    return RolloutConfig(**{"chunk_tokens": 32, "stream_tokens": 4, "logprobs": True, **FAST, **options})


@asynccontextmanager
async def stubs(count: int, **behaviour: Any) -> AsyncIterator[list[Stub]]:
    """Running stand-ins, killed at the end."""
    engines = [Stub(Behaviour(mean_tokens=MEAN_TOKENS, **behaviour)) for _ in range(count)]
    for engine in engines:
        await engine.start()
    try:
        yield engines
    finally:
        for engine in engines:
            await engine.kill()


def _prompt(number: int, *, samples: int = 4, limit: int = LIMIT, **sampling: Any) -> Prompt:
    return Prompt(
        group=f"g{number}",
        input_ids=[7] * (5 + number % 3),
        samples=samples,
        sampling={"max_new_tokens": limit, **sampling},
        seed=3,
    )


def prompts(count: int, **options: Any) -> list[Prompt]:
    return [_prompt(number, **options) for number in range(count)]


def assert_undisturbed(samples: list[Sample], wanted: list[Prompt], *, allow_missing: bool = False) -> None:
    """Every sample once, with the tokens and log-probabilities of an engine that was never disturbed."""
    keys = sorted((sample.group, sample.sample) for sample in samples)
    due = sorted((prompt.group, number) for prompt in wanted for number in range(prompt.samples))
    if allow_missing:
        assert len(set(keys)) == len(keys) and set(keys) <= set(due)
    else:
        assert keys == due
    by_group = {prompt.group: prompt for prompt in wanted}
    for sample in samples:
        prompt = by_group[sample.group]
        limit = prompt.sampling["max_new_tokens"]
        output_ids, logprobs = whole_response(prompt.seed_of(sample.sample), len(prompt.input_ids), limit, MEAN_TOKENS)
        assert sample.output_ids == output_ids
        assert sample.logprobs == logprobs
        assert sample.finish_reason == ("stop" if output_ids[-1] == 2 else "length")
        assert sum(chunk.tokens for chunk in sample.chunks) == len(output_ids)


def assert_settled(controller: RolloutController) -> None:
    """Nothing is held any more."""
    assert len(controller.buffer) == 0
    assert [(e.in_flight, e.reserved_tokens) for e in controller.buffer.engines.values()] == [(0, 0)] * len(
        controller.buffer.engines
    )


Disturb = Callable[[RolloutController, list[Stub]], Awaitable[None]]


async def disturbed(
    engines: list[Stub], wanted: list[Prompt], disturb: Disturb | None = None, **options: Any
) -> tuple[list[Sample], RolloutController]:
    """A rollout during which `disturb` runs."""
    async with RolloutController([engine.url for engine in engines], config=config(**options)) as controller:
        task = asyncio.create_task(disturb(controller, engines)) if disturb is not None else None
        samples = [sample async for sample in controller.samples(wanted)]
        if task is not None:
            await task
        assert_settled(controller)
        return samples, controller


async def as_long_as(needed: Callable[[], bool], taken: list[Prompt]) -> AsyncIterator[Prompt]:
    """Prompts while a test needs a rollout that goes on; `taken` gets each."""
    for prompt in map(_prompt, itertools.count()):
        if not needed():
            return
        taken.append(prompt)
        yield prompt


async def outlasted(
    engines: list[Stub], disturb: Disturb, **options: Any
) -> tuple[list[Sample], list[Prompt], RolloutController]:
    """As `disturbed`, with new prompts for as long as `disturb` runs. Returns those, too."""
    taken: list[Prompt] = []
    # What was taken in must be done in the end.
    options = {"buffer_requests": 100, **options}
    async with RolloutController([engine.url for engine in engines], config=config(**options)) as controller:
        task = asyncio.create_task(disturb(controller, engines))
        try:
            more = as_long_as(lambda: not task.done(), taken)
            samples = [sample async for sample in controller.samples(more)]
            await task
        finally:
            task.cancel()
        assert_settled(controller)
        return samples, taken, controller


class Arrivals:
    """Chunks under way of which something has come since the first look at them."""

    def __init__(self, rollout: RolloutController) -> None:
        self._rollout = rollout
        self._first_s: dict[str, float] = {}

    def on(self, url: str) -> int:
        """How many on that engine."""
        pulses = self._rollout.links[url].pulses
        return sum(last_s > self._first_s.setdefault(rid, last_s) for rid, last_s in pulses.items())


async def until(condition: Callable[[], bool], timeout_s: float = 60.0, every_s: float = 0.005) -> None:
    """Waits for a condition. Raises AssertionError where it does not come: a test that waits for ever says nothing."""
    started_s = time.monotonic()
    while not condition():
        assert time.monotonic() - started_s < timeout_s, "what the test waits for did not come"
        await asyncio.sleep(every_s)
