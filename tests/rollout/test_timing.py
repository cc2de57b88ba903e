"""Tasks end when they are cancelled, whatever runs out then and whoever swallows it, and not before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from sglang_seer.rollout import RolloutController, timing
from sglang_seer.rollout.client import EngineClient
from sglang_seer.rollout.discovery import engines_of_router
from sglang_seer.rollout.samples import Prompt, Sample
from sglang_seer.rollout.timing import within
from tests.rollout.fleet_of_stubs import config, prompts, stubs


async def cancelled_as_time_runs_out(task: asyncio.Task[object], limit_s: float) -> None:
    """The turn of the event loop in which the limit of `task`, which begins now, runs out also cancels it."""
    await asyncio.sleep(limit_s / 2)
    asyncio.get_running_loop().call_later(limit_s * 0.6, task.cancel)
    time.sleep(limit_s)
    await asyncio.wait([task], timeout=60)


async def test_a_call_is_cancelled_as_its_time_runs_out() -> None:
    """aiohttp's own time limit loses the cancellation."""
    async with stubs(1) as (engine,), EngineClient(engine.url) as client:
        engine.behaviour.fault = "hang"
        # A machine that stands still for a moment does not let it run out before.
        task: asyncio.Task[object] = asyncio.create_task(client.load(2.0))
        await cancelled_as_time_runs_out(task, 2.0)
        assert task.cancelled()


async def test_so_is_a_look_at_a_router(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sglang_seer.rollout.discovery.SHORT_CALL_S", 0.2)
    async with stubs(1) as (router,):
        router.behaviour.fault = "hang"
        task: asyncio.Task[object] = asyncio.create_task(engines_of_router(router.url))
        await cancelled_as_time_runs_out(task, 0.2)
        assert task.cancelled()


async def test_a_task_that_swallows_a_cancellation_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "TOLD_AGAIN_S", 0.02)
    told = []

    async def deaf() -> None:
        while len(told) < 3:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                told.append(len(told))

    async def fails() -> None:
        raise ValueError("it had failed before")

    tasks = [asyncio.create_task(deaf()), asyncio.create_task(fails())]
    await asyncio.sleep(0)
    await within(timing.end(tasks), 60)
    assert told == [0, 1, 2] and all(task.done() for task in tasks)


async def test_a_rollout_can_be_left_while_a_reward_swallows_its_cancellation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "TOLD_AGAIN_S", 0.02)
    begun = swallowed = 0

    async def reward(sample: Sample) -> float:
        nonlocal begun, swallowed
        begun += 1
        if begun == 1:
            return 1.0
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            swallowed += 1
        await asyncio.sleep(600)
        return 0.0

    async def leave_early() -> None:
        before = asyncio.all_tasks()
        async with stubs(1) as engines, RolloutController([engines[0].url], config=config()) as rollout:
            samples = rollout.samples(prompts(20), reward=reward)
            async for _ in samples:
                while begun < 2:
                    await asyncio.sleep(0.01)
                break
        # Also of a generator that nobody has closed.
        assert asyncio.all_tasks() - before == set()
        await samples.aclose()

    await within(leave_early(), 60)
    assert swallowed > 0


async def test_a_source_of_prompts_is_told_once() -> None:
    """The dropped generator closes beside its controller; what the source does at its end is not cut short."""
    cleaned = []

    async def source() -> AsyncIterator[Prompt]:
        try:
            for prompt in prompts(20):
                yield prompt
            await asyncio.sleep(600)
        finally:
            await asyncio.sleep(0.1)
            cleaned.append(True)

    async with stubs(1) as engines, RolloutController([engines[0].url], config=config()) as rollout:
        async for _ in rollout.samples(source()):
            break
    assert cleaned == [True]


async def test_a_reward_that_answers_its_cancellation_is_not_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    began, delivered = asyncio.Event(), []

    async def reward(sample: Sample) -> float:
        try:
            if (sample.group, sample.sample) != ("g0", 0):
                began.set()
                await asyncio.sleep(600)
        except asyncio.CancelledError:
            return -1.0
        return 1.0

    async with stubs(1) as engines, RolloutController([engines[0].url], config=config()) as rollout:
        deliver = rollout._deliver

        def seen(sample: Sample) -> None:
            delivered.append(sample.reward)
            deliver(sample)

        monkeypatch.setattr(rollout, "_deliver", seen)
        async for _ in rollout.samples(prompts(1), reward=reward):
            await within(began.wait(), 60)
            break
    assert delivered == [1.0]


async def test_a_look_at_an_engine_that_fails_is_said_and_not_the_last(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with stubs(1) as (engine,), RolloutController([engine.url], config=config()) as rollout:
        looks = 0

        async def load() -> None:
            nonlocal looks
            looks += 1
            if looks == 1:
                raise ValueError("made up")

        monkeypatch.setattr(rollout.links[engine.url], "load", load)

        async def third_look() -> None:
            while looks < 3:
                await asyncio.sleep(0.01)

        await within(third_look(), 60)
        assert rollout.links[engine.url].last_error == "ValueError: made up"
    assert f"a look at engine {engine.url} failed" in caplog.text and "ValueError: made up" in caplog.text


async def test_no_time_limit_waits() -> None:
    async def later() -> int:
        await asyncio.sleep(0.05)
        return 3

    assert await within(later(), None) == 3
    with pytest.raises(TimeoutError, match=r"no answer after 0\.01 s"):
        await within(later(), 0.01)
