"""The desk: clients that run chunks by themselves get places, engines fail, and nothing is left behind."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sglang_seer.rollout.client import RolloutError
from sglang_seer.rollout.config import RolloutConfig
from sglang_seer.rollout.desk import Ask, Desk, Report, engines_alike

LIMIT = 50


@asynccontextmanager
async def desk(engines: int = 2, **options: Any) -> AsyncIterator[Desk]:
    config = RolloutConfig(**{"chunk_tokens": 8, "poll_s": 0.02, "backoff_s": 0.02, "strikes": 2, **options})
    made = Desk(config)
    for number in range(engines):
        made.add_engine(f"e{number}", capacity_tokens=1_000, slots=4)
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def ask(key: str, **options: Any) -> Ask:
    return Ask(**{"key": key, "group": "g", "sample": 0, "session": key, "input_tokens": 10, "limit": LIMIT, **options})


async def sample(made: Desk, wanted: Ask, dice: random.Random, trouble: float = 0.0) -> list[str]:
    """One request to its end, by a client whose chunks break off now and then. The engines, chunk by chunk."""
    left, engines = wanted.limit, []
    while left:
        place = await made.take(wanted)
        engines.append(place.engine)
        assert 0 < place.tokens <= (left if wanted.whole else min(left, made.config.chunk_tokens))
        assert made.buffer.engines[place.engine].in_flight <= 4
        await asyncio.sleep(0)
        if dice.random() < trouble:
            made.give_back(wanted.key, Report(end="engine: broken", blame=True))
            continue
        left -= place.tokens
        made.give_back(wanted.key, Report(tokens=place.tokens, finished=not left, weight_version="1"))
    return engines


def nothing_left(made: Desk) -> None:
    assert (len(made.buffer), made._requests, made._places, made._keys, made._session_of) == (0, {}, {}, {}, {})
    assert {engine.reserved_tokens for engine in made.buffer.engines.values()} <= {0}


@pytest.mark.parametrize("trouble", [0.0, 0.2])
async def test_every_request_ends(trouble: float) -> None:
    dice = random.Random(3)
    async with desk() as made:
        wanted = [ask(f"r{number}", group=f"g{number % 5}", sample=number) for number in range(30)]
        async with asyncio.timeout(120):
            engines = await asyncio.gather(*(sample(made, one, dice, trouble) for one in wanted))
        nothing_left(made)
        assert {name for row in engines for name in row} == {"e0", "e1"}
        assert bool(made.buffer.counts.broken) == bool(trouble)


async def test_a_whole_request_gets_one_place() -> None:
    async with desk() as made:
        wanted = ask("whole", whole=("regex: depends on the whole output",))
        assert len(await sample(made, wanted, random.Random(0))) == 1
        nothing_left(made)


async def test_a_turn_goes_where_the_turn_before_was() -> None:
    async with desk(engines=4) as made:
        for _ in range(6):
            first = await sample(made, ask("one", session="s", limit=8), random.Random(0))
            second = await sample(made, ask("two", session="s", limit=8, input_tokens=18), random.Random(0))
            assert first == second
            made.forget_prefixes()


async def test_an_engine_that_is_lost_gets_no_more_chunks() -> None:
    async with desk() as made:
        place = await made.take(ask("r"))
        made.give_back("r", Report(end="engine: dead", lost=True))
        for _ in range(5):
            again = await made.take(ask("r"))
            assert again.engine != place.engine
            made.give_back("r", Report(tokens=1))
        await asyncio.sleep(0.1)
        assert place.engine not in made.buffer.up


async def test_an_engine_that_answered_badly_is_asked_again_later() -> None:
    async with desk(engines=1) as made:
        for _ in range(2):
            await made.take(ask("r"))
            made.give_back("r", Report(end="engine: garbage", blame=True))
        assert not made.buffer.up
        assert (await asyncio.wait_for(made.take(ask("r")), 60)).engine == "e0"


async def test_no_engine_for_long_is_an_error() -> None:
    async with desk(engines=0, no_engine_s=0.05) as made:
        with pytest.raises(RolloutError, match=r"no engine for 0 s: no engine was ever added"):
            await asyncio.wait_for(made.take(ask("r")), 60)
        nothing_left(made)


async def test_chunks_without_tokens_are_an_error_in_the_end() -> None:
    async with desk(fruitless=3, strikes=100) as made:
        for _ in range(3):
            await made.take(ask("r"))
            made.give_back("r", Report(end="engine: garbage", blame=True))
        with pytest.raises(RolloutError, match=r"3 chunks in a row without a token, the last on e\d: engine: garbage"):
            await made.take(ask("r"))
        nothing_left(made)


async def test_a_client_that_gives_up_leaves_nothing() -> None:
    async with desk(engines=0) as made:
        waiting = asyncio.create_task(made.take(ask("waiting")))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        made.add_engine("e0", capacity_tokens=1_000, slots=4)
        await made.take(ask("running"))
        made.give_back("running", Report(end="cancelled", dropped=True))
        made.give_back("running", Report(end="cancelled", dropped=True))
        nothing_left(made)


async def test_a_removed_engine_goes_when_its_chunks_have_ended() -> None:
    async with desk(engines=1) as made:
        await made.take(ask("r"))
        made.remove_engine("e0")
        assert "e0" in made.buffer.engines
        made.give_back("r", Report(tokens=8))
        assert "e0" not in made.buffer.engines
        made.add_engine("e1", capacity_tokens=1_000, slots=4)
        assert (await asyncio.wait_for(made.take(ask("r")), 60)).engine == "e1"


async def test_new_weights_clear_what_was_learnt() -> None:
    async with desk() as made:
        await sample(made, ask("r"), random.Random(0))
        learnt = made.buffer.lengths.expected_tokens("g", 10_000)
        await made.take(ask("next", group="other"))
        made.give_back("next", Report(tokens=8, weight_version="2"))
        assert (made.weight_version, made.weight_updates) == ("2", 1)
        assert made.buffer.lengths.expected_tokens("g", 10_000) != learnt


async def test_the_same_weights_clear_nothing() -> None:
    """Negative control of the test above."""
    async with desk() as made:
        await sample(made, ask("r"), random.Random(0))
        learnt = made.buffer.lengths.expected_tokens("g", 10_000)
        await made.take(ask("next", group="other"))
        made.give_back("next", Report(tokens=8, weight_version="1"))
        assert made.weight_updates == 0
        assert made.buffer.lengths.expected_tokens("g", 10_000) == learnt


async def test_requests_of_others_count_as_load() -> None:
    async with desk(engines=1) as made:
        made.others("e0", 4)
        waiting = asyncio.create_task(made.take(ask("r")))
        made.others("e0", 0)
        assert (await asyncio.wait_for(waiting, 60)).engine == "e0"


def test_engines_must_run_seer_alike() -> None:
    on = "on: scheduling, speculation"
    assert engines_alike({"a:1": on, "b:1": on}) is None
    assert engines_alike({"a:1": "off", "b:1": "off"}) is None
    assert engines_alike({}) is None
    said = engines_alike({"a:1": on, "b:1": "off"})
    assert said == f"Seer must run alike on all engines; saw a:1: {on}, b:1: off"
