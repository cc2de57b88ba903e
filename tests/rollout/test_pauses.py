"""A scheduling pass that takes long on a busy machine does not stop the rollout for many times as long."""

import asyncio
import math
import time
from typing import Any

import pytest

from sglang_seer.rollout import passes
from sglang_seer.rollout.buffer import RequestBuffer
from tests.rollout.fleet_of_stubs import assert_undisturbed, disturbed, prompts, stubs

SLOW_PASS_S = 0.05


async def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that a rollout with slow passes asks for; they are cut short."""
    asked: list[float] = []
    sleep, assign = asyncio.sleep, RequestBuffer.assign

    async def short_sleep(seconds: float, *rest: Any) -> Any:
        asked.append(seconds)
        return await sleep(min(seconds, 0.01), *rest)

    def slow_assign(self: RequestBuffer, *arguments: Any) -> Any:
        time.sleep(SLOW_PASS_S)
        return assign(self, *arguments)

    monkeypatch.setattr(RequestBuffer, "assign", slow_assign)
    monkeypatch.setattr(asyncio, "sleep", short_sleep)
    async with stubs(2) as engines:
        samples, _ = await disturbed(engines, prompts(3))
    assert_undisturbed(samples, prompts(3))
    return asked


async def test_pauses_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < max(await pauses(monkeypatch)) <= passes.LONGEST_PAUSE_S


async def test_without_the_bound_they_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control."""
    monkeypatch.setattr(passes, "LONGEST_PAUSE_S", math.inf)
    assert max(await pauses(monkeypatch)) >= SLOW_PASS_S / passes.PASS_SHARE
