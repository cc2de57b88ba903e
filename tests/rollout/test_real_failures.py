"""A real engine is killed in mid-chunk, hangs, and comes back with nothing in its cache: the samples stay the same."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from sglang_seer.rollout import Prompt, RolloutConfig, RolloutController, Sample
from tests.rollout.fleet_of_stubs import Arrivals, until
from tests.rollout.real_engines import RealEngine, assert_equal, unchunked

CHUNK_TOKENS = 64
STREAM_TOKENS = 8
RESTART_TIMEOUT_S = 240.0


def prompts(problems: list[list[int]], *, samples: int = 6) -> list[Prompt]:
    sampling = {"temperature": 1.0, "max_new_tokens": 300, "ignore_eos": True}
    return [
        Prompt(group=f"f{number}", input_ids=ids, samples=samples, sampling=sampling, seed=4)
        for number, ids in enumerate(problems)
    ]


def busy(rollout: RolloutController, url: str, *, behind: int = 0) -> Callable[[], bool]:
    """Whether more than two chunks run there, of which one has sent tokens and goes on.

    behind: more than so many have, and so many go on with the text of an earlier chunk.
    """
    arrivals = Arrivals(rollout)

    def is_busy() -> bool:
        running = rollout.buffer.on_engine(url)
        later = sum(bool(request.output_ids) for request in running)
        return arrivals.on(url) > behind and len(running) > 2 and later >= behind

    return is_busy


@pytest.fixture
async def undisturbed(engines: dict[str, RealEngine], problems: list[list[int]]) -> dict[tuple[str, int], Any]:
    return await unchunked(engines["stock"], prompts(problems[:3]))


async def run(urls: list[str], wanted: list[Prompt], disturb: Any, **options: Any) -> tuple[list[Sample], Any]:
    # A healthy engine may stand still for as long as health_s.
    options = {"logprobs": True, "poll_s": 0.2, "silent_s": 2.0, "health_s": 8.0, **options}
    config = RolloutConfig(chunk_tokens=CHUNK_TOKENS, stream_tokens=STREAM_TOKENS, **options)
    async with RolloutController(urls, config=config) as rollout:
        task = asyncio.create_task(disturb(rollout))
        samples = [sample async for sample in rollout.samples(wanted)]
        await task
        assert [engine.reserved_tokens for engine in rollout.buffer.engines.values()] == [0] * len(urls)
        return samples, rollout


async def test_a_hung_engine(
    engines: dict[str, RealEngine], problems: list[list[int]], undisturbed: dict[tuple[str, int], Any]
) -> None:
    """It is found out, its chunks go on elsewhere, and once it goes on it is in again."""
    stock, seer = engines["stock"].url, engines["seer"]

    async def hang(rollout: RolloutController) -> None:
        await until(busy(rollout, seer.url))
        seer.signal(signal.SIGSTOP)
        try:
            await until(lambda: seer.url not in rollout.buffer.up)
            await until(lambda: rollout.buffer.engines[seer.url].in_flight == 0)
        finally:
            seer.signal(signal.SIGCONT)

    samples, rollout = await run([stock, seer.url], prompts(problems[:3]), hang)
    assert_equal(samples, undisturbed)
    assert rollout.counts.engines_lost == 1
    assert any(broken.startswith("silent") for broken in rollout.counts.broken)


async def test_a_killed_engine_that_comes_back_with_an_empty_cache(
    engines: dict[str, RealEngine],
    problems: list[list[int]],
    undisturbed: dict[tuple[str, int], Any],
    restart: Callable[[str], None],
) -> None:
    """It is the only one: the rollout waits for it."""
    url = engines["seer"].url

    async def kill(rollout: RolloutController) -> None:
        # Of a first chunk little may be lost but its prompt, which a sibling may have brought back before it.
        await until(busy(rollout, url, behind=3))
        engines["seer"].kill()
        await until(lambda: not rollout.buffer.up)
        restart("seer")

    # Not so soon taken for silent that the end of its connections comes second.
    samples, rollout = await run([url], prompts(problems[:3]), kill, no_engine_s=240.0, silent_s=60.0)
    assert_equal(samples, undisturbed)
    assert rollout.counts.engines_lost == 1
    # What had come of broken chunks was kept; the rest of the text was computed again, once.
    broken = [chunk for sample in samples for chunk in sample.chunks if chunk.end.startswith("connection")]
    assert sum(chunk.tokens for chunk in broken) > 0
    assert rollout.counts.prefilled_again_tokens > 0


async def test_a_killed_engine_beside_another(
    engines: dict[str, RealEngine],
    problems: list[list[int]],
    undisturbed: dict[tuple[str, int], Any],
    restart: Callable[[str], None],
) -> None:
    stock, seer = engines["stock"].url, engines["seer"]
    killed_s = 0.0

    async def kill(rollout: RolloutController) -> None:
        nonlocal killed_s
        await until(busy(rollout, seer.url))
        killed_s = time.time()
        seer.kill()
        await until(lambda: seer.url not in rollout.buffer.up)

    try:
        samples, rollout = await run([stock, seer.url], prompts(problems[:3]), kill, silent_s=60.0)
    finally:
        # Other tests want it.
        restart("seer")
        engines["seer"].server.wait_until_ready(RESTART_TIMEOUT_S)
    assert_equal(samples, undisturbed)
    assert rollout.counts.engines_lost == 1
    found = 0
    for sample in samples:
        for lost, after in pairwise(sample.chunks):
            if lost.end.startswith("connection"):
                found += 1
                # What it had sent was kept, and the other engine went on from there.
                assert (lost.engine, after.engine) == (seer.url, stock)
                assert after.input_tokens == lost.input_tokens + lost.tokens
                print(f"sample {sample.group}/{sample.sample} went on after {after.started_s - killed_s:.3f} s")
    assert found > 0
    assert sum(chunk.tokens for sample in samples for chunk in sample.chunks if chunk.end.startswith("conn")) > 0
