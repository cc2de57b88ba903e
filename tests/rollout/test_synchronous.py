"""A rollout without a controller: order, places, progress, and what a failure does to the others."""

import pytest

from sglang_seer.rollout.client import EngineClient, EngineError
from sglang_seer.rollout.records import GenerateRequest, Generation, Load
from sglang_seer.rollout.synchronous import Rollout, by_group, roll_out
from tests.rollout.fleet_of_stubs import until
from tests.rollout.stub_engine import StubEngine, serving


def requests(count: int) -> list[GenerateRequest]:
    # They are answered in the opposite order.
    return [
        GenerateRequest(group="g", sample=count - 1 - index, input_ids=[1], limit=4, seed=index)
        for index in range(count)
    ]


async def run(
    engine: StubEngine, count: int, finished: list[Generation], loads: list[Load], poll_s: float = 0.02
) -> Rollout:
    async with serving(engine) as url, EngineClient(url) as client:
        return await roll_out([client], requests(count), on_finish=finished.append, on_load=loads.append, poll_s=poll_s)


async def test_results_keep_the_order_of_the_requests() -> None:
    finished: list[Generation] = []
    loads: list[Load] = []

    async def turn(sample: int) -> None:
        await until(lambda: len(finished) == sample and len(loads) > 2 and loads[-1].running > 0)

    rollout = await run(StubEngine(turn=turn), 4, finished, loads)
    assert [generation.sample for generation in rollout.generations] == [3, 2, 1, 0]
    assert [generation.sample for generation in finished] == [0, 1, 2, 3]
    assert rollout.loads == loads


async def test_one_failure_ends_the_rollout_and_cancels_the_rest() -> None:
    async def turn(sample: int) -> None:
        await until(lambda: sample == 0 and engine.running == 8)

    engine = StubEngine(turn=turn, failing=(0,))
    with pytest.raises(EngineError, match="told to fail"):
        await run(engine, 8, [], [])
    assert engine.cancelled == 7


async def test_some_are_enough() -> None:
    """Those that end first are returned, the others are aborted on the engine."""
    finished: list[Generation] = []

    async def turn(sample: int) -> None:
        await until(lambda: sample < 2 and len(finished) == sample and engine.running == 6 - sample)

    engine = StubEngine(turn=turn)
    async with serving(engine) as url, EngineClient(url) as client:
        rollout = await roll_out([client], requests(6), on_finish=finished.append, on_load=lambda _: None, enough=2)
        assert [generation.sample for generation in rollout.generations] == [0, 1]
        await until(lambda: not engine.running)
    assert engine.cancelled == 4


async def test_a_load_that_fails_leaves_a_gap_only() -> None:
    engine = StubEngine(delay_s=0.05)
    engine.broken_loads = True
    rollout = await run(engine, 3, [], [])
    assert len(rollout.generations) == 3
    assert rollout.loads == []


async def test_groups_go_to_the_engines_in_turn_and_loads_are_summed() -> None:
    asked = [
        GenerateRequest(group=f"g{group}", sample=sample, input_ids=[1], limit=4, seed=sample)
        for group in range(3)
        for sample in range(2)
    ]
    assert by_group(asked, 2) == [0, 0, 1, 1, 0, 0]
    loads: list[Load] = []

    async def turn(sample: int) -> None:
        await until(lambda: bool(loads))

    first, second = StubEngine(turn=turn), StubEngine(turn=turn)
    async with (
        serving(first) as one,
        serving(second) as other,
        EngineClient(one) as client,
        EngineClient(other) as another,
    ):
        rollout = await roll_out([client, another], asked, on_finish=lambda _: None, on_load=loads.append, poll_s=0.02)
        capacity = (await client.load()).capacity_tokens
    assert [generation.group for generation in rollout.generations] == [request.group for request in asked]
    assert {load.capacity_tokens for load in loads} == {2 * capacity}
