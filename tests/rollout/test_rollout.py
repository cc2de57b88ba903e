"""What a caller sees of a rollout on stand-in engines: groups, rewards, backpressure, weights, misuse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from itertools import pairwise
from typing import Any

import pytest

from bench.controller.stub import Stub
from sglang_seer.rollout import Prompt, RolloutController, RolloutError, Sample
from tests.rollout.fleet_of_stubs import assert_settled, assert_undisturbed, config, disturbed, prompts, stubs, until
from tests.rollout.real_engines import restless


def rollout(engines: list[Stub], **options: Any) -> RolloutController:
    return RolloutController([engine.url for engine in engines], config=config(**options))


async def test_groups_come_whole_and_rewards_wait_for_nobody() -> None:
    waiting = asyncio.Event()
    judged: list[str] = []

    async def reward(sample: Sample) -> int:
        if sample.group == "g0":
            await waiting.wait()
        judged.append(sample.group)
        return len(sample.output_ids)

    async with stubs(2) as engines, rollout(engines) as controller:
        seen = []
        async for group in controller.groups(prompts(4), reward=reward):
            seen.append(group.group)
            assert [sample.sample for sample in group.samples] == [0, 1, 2, 3]
            assert all(sample.reward == len(sample.output_ids) for sample in group.samples)
            if len(seen) == 3:
                # All others came although the rewards of one were not there.
                assert "g0" not in seen
                waiting.set()
        assert sorted(seen) == ["g0", "g1", "g2", "g3"]
        assert len(judged) == 16


async def test_a_reward_that_fails_ends_the_rollout() -> None:
    async def reward(sample: Sample) -> int:
        raise LookupError("no such answer")

    async with stubs(1) as engines, rollout(engines) as controller:
        with pytest.raises(LookupError, match="no such answer"):
            async for _ in controller.samples(prompts(2), reward=reward):
                pass
        assert_settled(controller)


async def test_leaving_early_frees_the_engines() -> None:
    async with stubs(2, seconds_per_token=0.01) as engines, rollout(engines) as controller:
        async with aclosing(controller.samples(prompts(8))) as samples:
            async for _ in samples:
                break
        assert_settled(controller)
        await until(lambda: not any(engine.running for engine in engines))
        # And another rollout may follow.
        assert_undisturbed([one async for one in controller.samples(prompts(1))], prompts(1))


async def test_prompts_are_taken_as_there_is_room() -> None:
    """Neither prompts that come slowly nor a caller that takes samples slowly fill the memory."""
    taken = 0

    async def source() -> AsyncIterator[Prompt]:
        nonlocal taken
        for prompt in prompts(40):
            taken += 1
            await asyncio.sleep(0)
            yield prompt

    async with stubs(2) as engines, rollout(engines, buffer_requests=12, undelivered_samples=4) as controller:
        samples = []
        async for sample in controller.samples(source()):
            samples.append(sample)
            await asyncio.sleep(0.001)
            # Four of a group; one prompt more is in the source's hand.
            assert 4 * taken - len(samples) <= 12 + 2 * 4
            assert len(controller.buffer) <= 12 + 4
    assert_undisturbed(samples, prompts(40))


async def test_the_weight_version_is_the_namespace_of_kv() -> None:
    async with stubs(1) as engines, rollout(engines, shared_kv=True) as controller:
        engines[0].keep_bodies = True
        [_ async for _ in controller.samples(prompts(1))]
        controller.new_weights("7")
        [_ async for _ in controller.samples(prompts(1))]
    keys = [body["extra_key"] for body in engines[0].seen.bodies]
    assert set(keys) == {"seer-weights-0", "seer-weights-7"}
    async with stubs(1) as engines, rollout(engines) as controller:
        engines[0].keep_bodies = True
        [_ async for _ in controller.samples(prompts(1))]
    assert all("extra_key" not in body for body in engines[0].seen.bodies)


@pytest.mark.parametrize("one_version", [False, True])
async def test_weights_that_change_in_mid_response(one_version: bool) -> None:
    async def change(controller: RolloutController, engines: list[Stub]) -> None:
        await until(lambda: any(request.chunks for request in controller.buffer.unfinished()))
        for engine in engines:
            engine.behaviour.weight_version = "new"

    async with stubs(2, seconds_per_token=0.002) as engines:
        samples, controller = await disturbed(engines, prompts(10), change, one_weight_version=one_version)
    assert_undisturbed(samples, prompts(10))
    mixed = [sample for sample in samples if len(sample.weight_versions) > 1]
    assert bool(mixed) != one_version
    assert (controller.counts.restarted > 0) == one_version


async def test_misuse_is_told() -> None:
    with pytest.raises(ValueError, match="engines: got none"):
        RolloutController([])
    async with stubs(1) as engines:
        controller = rollout(engines)
        with pytest.raises(RuntimeError, match="async with"):
            [_ async for _ in controller.samples(prompts(1))]
        async with controller:
            async with aclosing(controller.samples(prompts(2))) as first:
                await anext(first)
                with pytest.raises(RuntimeError, match="a rollout is running"):
                    [_ async for _ in controller.samples(prompts(1))]
            with pytest.raises(ValueError, match="'g0': a group of that name is there already"):
                [_ async for _ in controller.samples([*prompts(1), *prompts(1)])]
            with pytest.raises(ValueError, match="'g': got text, wanted input_ids"):
                [_ async for _ in controller.samples([Prompt(group="g", text="hello")])]


async def test_a_shared_store_is_emptied_by_every_engine_that_has_one() -> None:
    async with stubs(2, store="file") as engines, rollout(engines, shared_kv=True) as controller:
        await controller.release_kv()
        assert [engine.seen.cleared for engine in engines] == [1, 1]
        async with aclosing(controller.samples(prompts(1))) as samples:
            await anext(samples)
            with pytest.raises(RuntimeError, match="is running: its KV is still wanted"):
                await controller.release_kv()
        # What one engine does is enough: the store is one.
        engines[0].behaviour.store = None
        await controller.release_kv()
        engines[1].behaviour.store = None
        with pytest.raises(RolloutError, match=r"no engine emptied its KV store: .*status 404"):
            await controller.release_kv()
        assert [engine.seen.cleared for engine in engines] == [1, 2]


async def test_engines_that_share_a_store_lay_out_their_pages_alike() -> None:
    """A store's keys do not say how: an engine would take what it reads for another layout's."""
    async with stubs(2, store="file") as engines:
        engines[1].behaviour.layout = "layer_first"
        with pytest.raises(ValueError, match=r"differ in hicache_mem_layout: .*page_first.*layer_first"):
            async with rollout(engines, shared_kv=True):
                pass
        async with rollout(engines):
            pass


async def test_a_chunk_that_moves_waits_for_its_kv() -> None:
    gaps = {}
    for shared_kv in (True, False):
        async with stubs(2, store="file", seconds_per_token=0.001) as engines:
            with restless():
                samples, controller = await disturbed(engines, prompts(4), shared_kv=shared_kv, store_s=0.4)
        assert_undisturbed(samples, prompts(4))
        pairs = [pair for sample in samples for pair in pairwise(sample.chunks) if pair[0].engine != pair[1].engine]
        assert len(pairs) == controller.counts.moved > 0
        gaps[shared_kv] = min(after.started_s - before.ended_s for before, after in pairs)
    # By another clock than the wait.
    assert gaps[True] > 0.39 > gaps[False]


async def test_an_engine_without_a_store_is_named(caplog: pytest.LogCaptureFixture) -> None:
    async with stubs(2, store="file") as engines:
        async with rollout(engines, shared_kv=True):
            pass
        assert not caplog.records
        for engine in engines:
            engine.behaviour.store = None
        async with rollout(engines, shared_kv=True):
            pass
        assert [engine.url in record.message for engine, record in zip(engines, caplog.records, strict=True)] == [
            True
        ] * 2
