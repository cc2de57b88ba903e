"""Requests one by one: each its own sample, whoever follows them chunk by chunk, and an end from outside."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from bench.controller.stub import Stub, response_tokens, whole_response
from sglang_seer.rollout import RolloutError, Sample
from sglang_seer.rollout.requests import RequestRollout
from sglang_seer.rollout.stream import Part
from sglang_seer.rollout.verdict import Verdict
from tests.rollout.fleet_of_stubs import MEAN_TOKENS, assert_settled, config, stubs, until

LIMIT = 120
PROMPT = [7] * 5


def urls(engines: list[Stub]) -> list[str]:
    return [engine.url for engine in engines]


def ask(rollout: RequestRollout, seed: int, **options: Any) -> asyncio.Task[Sample]:
    return asyncio.create_task(
        rollout.generate(f"g{seed % 3}", seed, PROMPT, {"max_new_tokens": LIMIT}, seed=seed, **options)
    )


def whole(seed: int) -> tuple[list[int], list[float]]:
    return whole_response(seed, len(PROMPT), LIMIT, MEAN_TOKENS)


class Follower:
    """Keeps what it is told of one request; `takes`: whether parts may be kept."""

    def __init__(self, *, takes: bool = True) -> None:
        self.takes = takes
        self.tokens: list[int] = []
        self.metas: list[dict[str, Any]] = []

    def body(self) -> Mapping[str, Any]:
        return {"return_hidden_states": len(self.metas)}

    def usable(self, part: Part) -> bool:
        return self.takes or part.finish is not None

    def kept(self, part: Part, verdict: Verdict) -> None:
        self.tokens += verdict.output_ids
        assert part.meta is not None
        self.metas.append(part.meta)


async def test_each_gets_its_own_sample() -> None:
    async with stubs(2) as engines, RequestRollout(urls(engines), config=config()) as rollout:
        tasks = [ask(rollout, seed) for seed in range(20)]
        for seed, sample in enumerate(await asyncio.gather(*tasks)):
            assert (sample.output_ids, sample.logprobs) == whole(seed)
        # A later one, after all have ended; and one that an earlier call had begun.
        assert (await ask(rollout, 21)).output_ids == whole(21)[0]
        again = await ask(rollout, 22, output_ids=whole(22)[0][:9])
        assert again.output_ids == whole(22)[0]
        assert_settled(rollout)


async def test_a_follower_sees_each_chunk() -> None:
    async with stubs(1) as (engine,), RequestRollout([engine.url], config=config()) as rollout:
        engine.keep_bodies = True
        follower = Follower()
        sample = await ask(rollout, 4, listener=follower)
        assert follower.tokens == sample.output_ids
        assert len(follower.metas) == len(sample.chunks) > 1
        assert all(
            meta["prompt_tokens"] == chunk.input_tokens
            for meta, chunk in zip(follower.metas, sample.chunks, strict=True)
        )
        asked = [body["return_hidden_states"] for body in engine.seen.bodies]
        assert asked == list(range(len(sample.chunks)))


@pytest.mark.parametrize("takes", [True, False])
async def test_a_follower_may_refuse_what_broke_off(takes: bool) -> None:
    """Then the chunk counts for nothing, and comes again elsewhere."""
    async with (
        stubs(2, seconds_per_token=0.004) as engines,
        RequestRollout(urls(engines), config=config()) as rollout,
    ):
        follower = Follower(takes=takes)
        task = ask(rollout, 4, listener=follower)
        await until(lambda: any(one.sent >= 8 for engine in engines for one in engine.running))
        (busy,) = [engine for engine in engines if engine.running]
        await busy.kill()
        sample = await task
        assert (sample.output_ids, sample.logprobs) == whole(4)
        assert follower.tokens == sample.output_ids
        (broken,) = [chunk for chunk in sample.chunks if chunk.end.startswith("connection") or "without" in chunk.end]
        assert (broken.tokens > 0) == takes


async def test_an_end_from_outside() -> None:
    """Those that wait end at once, those that run when their chunk ends; and no engine is blamed for its aborts."""
    halted = False
    async with (
        stubs(1, seconds_per_token=0.003, slots=4) as (engine,),
        RequestRollout([engine.url], config=config(max_running=4), halted=lambda: halted) as rollout,
    ):
        # Several chunks each: none of them ends soon.
        seeds = [seed for seed in range(500) if response_tokens(seed, MEAN_TOKENS) > LIMIT][:12]
        tasks = [ask(rollout, seed) for seed in seeds]
        await until(lambda: engine.seen.chunks > 8 and any(one.sent for one in engine.running))
        engine.behaviour.fault = "abort"
        halted = True
        samples = await asyncio.gather(*tasks)
        assert {sample.finish_reason for sample in samples} <= {"cancelled", "stop", "length"}
        cut = [sample for sample in samples if sample.finish_reason == "cancelled"]
        # Each takes four chunks, and about nine were seen.
        assert len(cut) > 6 and any(sample.output_ids for sample in cut)
        for sample in samples:
            assert sample.output_ids == whole(sample.seed)[0][: len(sample.output_ids)]
        assert rollout.links[engine.url].strikes == 0 and engine.url in rollout.buffer.up
        assert_settled(rollout)
        # It goes on where it was.
        halted, engine.behaviour.fault = False, None
        more = await ask(rollout, cut[0].seed, output_ids=cut[0].output_ids)
        assert more.output_ids == whole(cut[0].seed)[0]


async def test_aborts_that_nobody_asked_for_are_blamed() -> None:
    """Negative control of the test above: without the word from outside the engine rests."""
    async with stubs(1) as (engine,), RequestRollout([engine.url], config=config(no_engine_s=0.3)) as rollout:
        engine.behaviour.fault = "abort"
        tasks = [ask(rollout, seed) for seed in range(6)]
        await until(lambda: rollout.counts.engines_lost > 0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_one_that_is_given_up_is_broken_off() -> None:
    async with (
        stubs(1, seconds_per_token=0.05) as (engine,),
        RequestRollout([engine.url], config=config()) as rollout,
    ):
        task = ask(rollout, 4)
        await until(lambda: bool(engine.running))
        task.cancel()
        await until(lambda: not engine.running and not len(rollout.buffer))
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_no_engine_left() -> None:
    async with (
        stubs(1, seconds_per_token=0.05) as (engine,),
        RequestRollout([engine.url], config=config(no_engine_s=0.2)) as rollout,
    ):
        task = ask(rollout, 4)
        await until(lambda: bool(engine.running))
        await engine.kill()
        for one in (task, ask(rollout, 5)):
            with pytest.raises(RolloutError, match="no engine for 0 s"):
                await one


async def test_what_cannot_be_served() -> None:
    async with stubs(1, context_tokens=100) as (engine,), RequestRollout([engine.url], config=config()) as rollout:
        with pytest.raises(ValueError, match="prompt 'g1': 5 tokens and max_new_tokens 120"):
            await ask(rollout, 4)
        with pytest.raises(ValueError, match="max_new_tokens: got 0, wanted"):
            await rollout.generate("g", 0, PROMPT, {"max_new_tokens": 0}, seed=1)


async def test_weights_that_differ() -> None:
    async with stubs(2) as engines, RequestRollout(urls(engines), config=config()) as rollout:
        assert await rollout.read_weight_version() == "default"
        engines[1].behaviour.weight_version = "2"
        with pytest.raises(ValueError, match=r"the same weights; weight_version: .* has 'default', .* has '2'"):
            await rollout.read_weight_version()
