"""Off, observe, on and off again under one rollout controller that keeps running: samples are the same throughout."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest

from sglang_seer.rollout import Prompt, RolloutConfig, RolloutController, Sample
from tests.rollout.real_engines import RealEngine, assert_equal, unchunked

from .conftest import Engine

PATIENCE_S = 240.0
MODES = {"off": "stock", "observe": "observe", "on": "seer"}
# The engines that serve after each step; one comes or goes at a time, in the middle of a rollout.
PATH = (
    {"off"},
    {"off", "observe"},
    {"observe"},
    {"observe", "on"},
    {"on"},
    {"on", "off"},
    {"off"},
)


def wanted(prompts: list[list[int]], seed: int = 1) -> list[Prompt]:
    sampling = {"temperature": 1.0, "max_new_tokens": 160}
    return [
        Prompt(group=f"g{number}", input_ids=ids, samples=3, sampling=sampling, seed=seed)
        for number, ids in enumerate(prompts[::8])
    ]


def engines_of(samples: Sequence[Sample]) -> set[str]:
    return {chunk.engine for sample in samples for chunk in sample.chunks}


async def test_modes_change_under_a_running_controller(
    engine_of: Callable[[str], Engine], prompts: list[list[int]]
) -> None:
    urls = {mode: engine_of(name).server.plan.url for mode, name in MODES.items()}
    truth = await unchunked(RealEngine(engine_of("stock").server), wanted(prompts))
    config = RolloutConfig(chunk_tokens=32, logprobs=True, poll_s=0.2, silent_s=60.0, connect_s=60.0)
    async with RolloutController([urls["off"]], config=config) as controller:
        for before, after in pairwise(PATH):
            samples: list[Sample] = []
            async for sample in controller.samples(wanted(prompts)):
                if not samples:
                    for mode in after - before:
                        await controller.add_engine(urls[mode])
                    for mode in before - after:
                        await controller.remove_engine(urls[mode])
                samples.append(sample)
            assert_equal(samples, truth)
            assert engines_of(samples) <= {urls[mode] for mode in before | after}
            # Nobody comes or goes: all that are there work, also one that has just stood still and counts as slow.
            there, worked = {urls[mode] for mode in after}, set[str]()
            async with asyncio.timeout(PATIENCE_S):
                while worked != there:
                    samples = [sample async for sample in controller.samples(wanted(prompts))]
                    assert_equal(samples, truth)
                    worked |= engines_of(samples)
                    assert worked <= there
            modes = {url: link.facts.seer for url, link in controller.links.items() if link.facts is not None}
            assert modes == {urls[mode]: mode for mode in after}
        # Chunks that ran on an engine when it was let go went on elsewhere; nothing else went wrong.
        assert set(controller.counts.broken) <= {"the engine was removed"}
    # Negative control of the comparison.
    with pytest.raises(AssertionError):
        assert_equal(samples, await unchunked(RealEngine(engine_of("stock").server), wanted(prompts, seed=2)))
